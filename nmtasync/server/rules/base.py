"""The interface of all rules.

Shapes: n is the length of a shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class ShardPush:
    """The part of a push that concerns one shard; rules hand it on, changed, to the next.

    Attributes:
        worker: Who pushes.
        gradient: [n], summed over the target words; a rule may overwrite it.
        target_words: How many there are.
        version: The updates that the shard has made so far.
        staleness: How many of them the worker had not seen.
        progress: The share of the training that is over, for the schedule.
        learning_rate_scale: What the learning rate is multiplied with.
        slot: Which of the worker's slots it was computed in.
    """

    worker: int
    gradient: Tensor
    target_words: int
    version: int
    staleness: int
    progress: float = 0.0
    learning_rate_scale: float = 1.0
    slot: int = 0


class Rule(Protocol):
    """Applies pushes to one shard, of which it owns the optimizer state.

    A rule either updates the parameters or changes a push and hands it on to the rule inside it.
    """

    def apply(self, push: ShardPush) -> float | None:
        """Take one push.

        Returns:
            The learning rate of the update that it made, or None if it made none.
        """
        ...

    def fetched(self, worker: int, slot: int) -> None:
        """Note that the worker is being handed the parameters as they are, into a slot."""
        ...

    def counts(self) -> dict[str, int]:
        """The numbers that a checkpoint must keep besides the vectors."""
        ...

    def restore(self, counts: dict[str, int]) -> None:
        """Go on from what `counts` gave."""
        ...


class OuterRule:
    """A rule that hands pushes on; those that need no more than `apply` derive from it."""

    def __init__(self, inner: Rule) -> None:
        self.inner = inner

    def fetched(self, worker: int, slot: int) -> None:
        """Hand it on."""
        self.inner.fetched(worker, slot)

    def counts(self) -> dict[str, int]:
        """Those of the rule inside."""
        return self.inner.counts()

    def restore(self, counts: dict[str, int]) -> None:
        """Hand it on."""
        self.inner.restore(counts)
