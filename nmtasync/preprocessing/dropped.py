"""What was dropped: counted by reason, with an example of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nmtasync.preprocessing.rules import Verdict

_LONGEST_EXAMPLE = 200
_LONGEST_REJECTED = 10_000


@dataclass(frozen=True)
class Dropped:
    """Pairs that were dropped for one reason.

    Attributes:
        reason: Why.
        num_pairs: How many.
        example: File and line of the first.
        source: Its source side, as much of it as shows what it is.
        target: Its target side, likewise.
    """

    reason: str
    num_pairs: int
    example: str
    source: str
    target: str

    @classmethod
    def one(cls, verdict: Verdict, where: str, source: str, target: str) -> Dropped:
        """Describe one pair."""
        return cls(verdict.reason, 1, where, source[:_LONGEST_EXAMPLE], target[:_LONGEST_EXAMPLE])


def merged(parts: Iterable[Sequence[Dropped]]) -> list[Dropped]:
    """Add up what was dropped of parts of a corpus, given in their order."""
    result: dict[str, Dropped] = {}
    for dropped in (dropped for part in parts for dropped in part):
        first = result.setdefault(dropped.reason, dataclasses.replace(dropped, num_pairs=0))
        result[dropped.reason] = dataclasses.replace(
            first, num_pairs=first.num_pairs + dropped.num_pairs
        )
    order = {verdict.reason: verdict for verdict in Verdict}
    return sorted(result.values(), key=lambda dropped: order[dropped.reason])


def add_to_state(state: Sequence[dict[str, Any]], new: Sequence[Dropped]) -> list[dict[str, Any]]:
    """Add to what was dropped before, both written as JSON."""
    return [dataclasses.asdict(each) for each in merged([from_state(state), new])]


def from_state(state: Sequence[dict[str, Any]]) -> list[Dropped]:
    """Read what `add_to_state` returns."""
    return [Dropped(**each) for each in state]


def rejected_line(verdict: Verdict, where: str, source: str, target: str) -> str:
    """Write a pair as a line of the file of rejected ones: reason, place and both sides."""
    sides = (side[:_LONGEST_REJECTED].replace("\t", " ") for side in (source, target))
    return "\t".join((verdict.reason, where, *sides)) + "\n"
