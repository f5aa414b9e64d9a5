"""How late pushes came: figures by worker and by shard."""

from __future__ import annotations

from collections import Counter
from typing import Any


class StalenessFigures:
    """Gathers the staleness of pushes."""

    def __init__(self) -> None:
        self._by_worker: dict[int, Counter[int]] = {}
        self._by_shard: dict[int, Counter[int]] = {}

    def add(
        self, worker: int, staleness: tuple[int, ...], shards: tuple[int, ...] | None = None
    ) -> None:
        """Count a push.

        Args:
            worker: Who pushed.
            staleness: For each shard that it was for, how many updates late.
            shards: Which these are; None for all.
        """
        for shard, late in zip(shards or range(len(staleness)), staleness, strict=True):
            self._by_worker.setdefault(worker, Counter())[late] += 1
            self._by_shard.setdefault(shard, Counter())[late] += 1

    def figures(self) -> dict[str, Any]:
        """Sum up: mean and maximum of all, means by worker and by shard, and a histogram."""
        everything = sum(self._by_shard.values(), Counter())
        return {
            "staleness_mean": _mean(everything),
            "staleness_max": max(everything, default=0),
            "staleness_by_worker": {w: _mean(c) for w, c in sorted(self._by_worker.items())},
            "staleness_by_shard": {s: _mean(c) for s, c in sorted(self._by_shard.items())},
            "staleness_histogram": dict(sorted(everything.items())),
        }


def _mean(counts: Counter[int]) -> float:
    return sum(late * count for late, count in counts.items()) / max(counts.total(), 1)
