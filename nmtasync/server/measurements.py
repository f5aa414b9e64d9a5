"""What a server counts and measures of the pushes that it takes, on which choices depend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.server.decaying_mean import DecayingMean
from nmtasync.server.messages import Push
from nmtasync.server.noise_scale import NoiseScale
from nmtasync.server.sharded_vector import ShardedState
from nmtasync.untrusted import typed

USUAL_PUSHES = 200
"""How late pushes usually are is a mean over so many."""


class Measurements:
    """How late pushes are, how noisy, and of how many words.

    Args:
        config: The experiment.
        num_workers: How many workers push.
        state: The server's vectors.
        num_shards: Into how many shards they are cut.

    Attributes:
        noise: Of the gradients.
        seen_words: Target words of all pushes.
    """

    def __init__(
        self, config: Config, num_workers: int, state: ShardedState, num_shards: int
    ) -> None:
        self.num_shards = num_shards
        self.noise = NoiseScale.of(config, num_workers, state, num_shards)
        self.seen_words = 0.0
        self._lateness = DecayingMean(USUAL_PUSHES)

    def see(self, push: Push, pieces: Mapping[int, Tensor], staleness: Sequence[int]) -> float:
        """See a push that is being applied; call it before anything changes the gradient.

        Args:
            push: Its header.
            pieces: [n] for each shard that it is for, where the shard lies.
            staleness: How late it is for each of them.

        Returns:
            How many updates late pushes usually are.
        """
        self.noise.see(push, pieces)
        if staleness:
            mean, share = sum(staleness) / len(staleness), len(staleness) / self.num_shards
            self._lateness.add(mean, weight=share)
            self.seen_words += share * push.target_words
        return self._lateness.value

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "seen_words": self.seen_words,
            "lateness": asdict(self._lateness),
            "noise": self.noise.to_json(),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from what `to_json` returned; nothing changes if it is empty.

        Raises:
            ValueError, KeyError: It is not what that returns.
        """
        if content:
            self.seen_words = typed(float, content["seen_words"], "seen_words")
            if self.seen_words < 0:
                raise ValueError(f"seen_words can't be {self.seen_words}")
            self._lateness = typed(DecayingMean, content["lateness"], "lateness")
            self.noise.restore(content["noise"])
