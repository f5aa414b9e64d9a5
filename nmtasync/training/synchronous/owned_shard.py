"""The shard that one rank of synchronous training owns: the rule and the moving average on it.

Shapes: P is the length of the vector, n the length of the shard.
"""

from __future__ import annotations

from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.server.rules.base import RuleSetup, ShardPush
from nmtasync.server.shard import Shard

TORN = -1
"""The mark of a shard that is just being written."""


class OwnedShard:
    """A shard in the hands of the one process that updates it.

    The vectors of all shards lie in shared memory. On a CPU the owner updates them there; on a
    GPU it updates a copy, and `publish` brings it back. `marks` says of each shard which version
    the shared memory holds, so that a state that is not whole is never taken for one that is.

    Args:
        rank: Whose shard it is.
        bounds: Where it lies in the vector.
        vectors: [P] by name, in shared memory: the parameters and what belongs to them.
        marks: The version of each rank's shard in shared memory, or `TORN`.
        parameters: [P], what the rank computes with: those of `vectors` or, on a GPU, its own.
        config: Rule and smoothing.
    """

    def __init__(
        self,
        rank: int,
        bounds: slice,
        vectors: dict[str, Tensor],
        marks: Tensor,
        parameters: Tensor,
        config: Config,
    ) -> None:
        self.rank = rank
        self.marks = marks
        self._shared = {name: vector[bounds] for name, vector in vectors.items()}
        self._in_place = parameters is vectors["parameters"]
        self._state = self._shared
        if not self._in_place:
            device = parameters.device
            self._state = {name: vector.to(device) for name, vector in self._shared.items()}
            self._state["parameters"] = parameters[bounds]
        self._shard = Shard(bounds, RuleSetup(config, 1, self._state.__getitem__))

    def update(
        self,
        gradient: Tensor,
        target_words: int,
        version: int,
        seen_words: float,
        progress: float,
    ) -> float:
        """Apply one update.

        Args:
            gradient: [n], summed over the target words; it may be overwritten.
            target_words: How many there are.
            version: The updates made so far.
            seen_words: The target words behind them.
            progress: The share of the training that is over.

        Returns:
            The learning rate.
        """
        if self._in_place:
            self.marks[self.rank] = TORN
        push = ShardPush(
            0,
            gradient,
            target_words,
            version,
            staleness=0,
            seen_words=seen_words + target_words,
            progress=progress,
        )
        self._shard.version = version
        rate = self._shard.apply(push)
        assert rate is not None, "only the immediate rule is for synchronous training"
        if self._in_place:
            self.marks[self.rank] = version + 1
        return rate

    def publish(self, version: int) -> None:
        """Bring the shard of this version to shared memory, where it is not there already."""
        if self._in_place:
            return
        self.marks[self.rank] = TORN
        for name, vector in self._shared.items():
            vector.copy_(self._state[name])
        self.marks[self.rank] = version
