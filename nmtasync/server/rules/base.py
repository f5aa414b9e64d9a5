"""The interface of all rules.

Shapes: n is the length of a shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from nmtasync.config.schema import Config


class Applied(NamedTuple):
    """The update that a push has made.

    Attributes:
        learning_rate: Its size.
        target_words: Behind everything that was merged into it.
    """

    learning_rate: float
    target_words: int


@dataclass
class ShardPush:
    """The part of a push that concerns one shard; rules hand it on, changed, to the next.

    Attributes:
        worker: Who pushes.
        gradient: [n], summed over the target words; a rule may overwrite it.
        target_words: How many there are.
        version: The updates that the shard has made so far.
        staleness: How many of them the worker had not seen.
        seen_words: Target words of all pushes so far, this one's included.
        progress: The share of the training that is over, for the schedule.
        learning_rate_scale: What the learning rate is multiplied with.
        slot: Which of the worker's slots it was computed in.
        usual_staleness: How late pushes to this server are on average.
    """

    worker: int
    gradient: Tensor
    target_words: int
    version: int
    staleness: int
    seen_words: float
    progress: float = 0.0
    learning_rate_scale: float = 1.0
    slot: int = 0
    usual_staleness: float = 0.0


@dataclass(frozen=True)
class RuleSetup:
    """What the rule of one shard is built from.

    Attributes:
        config: The experiment.
        num_workers: How many workers push.
        vector: Returns the shard's slice [n] of the vector of a name: "parameters", or one that a
            rule keeps, which is zero at first, is allocated when it is first asked for, and is in
            every checkpoint.
    """

    config: Config
    num_workers: int
    vector: Callable[[str], Tensor]


class Rule:
    """Applies pushes to one shard, of which it owns the optimizer state.

    A rule either updates the parameters or changes a push and hands it on to the rule inside it.
    """

    def apply(self, push: ShardPush) -> Applied | None:
        """Take one push.

        Returns:
            The update that it made, or None if it made none.
        """
        raise NotImplementedError

    def fetched(self, worker: int, slot: int) -> None:
        """Note that the worker is being handed the parameters as they are, into a slot."""

    def numbers(self) -> dict[str, int]:
        """The numbers that a checkpoint must keep besides the vectors."""
        return {}

    def restore(self, numbers: dict[str, int]) -> None:
        """Go on from saved `numbers`."""


class OuterRule(Rule):
    """A rule that hands pushes on; those that need no more than `apply` derive from it.

    Args:
        setup: What the vectors and options of the rule are taken from.
        inner: The rule inside it.
    """

    def __init__(self, setup: RuleSetup, inner: Rule) -> None:
        self.inner = inner

    def fetched(self, worker: int, slot: int) -> None:
        """Hand it on."""
        self.inner.fetched(worker, slot)

    def numbers(self) -> dict[str, int]:
        """Those of the rule inside."""
        return self.inner.numbers()

    def restore(self, numbers: dict[str, int]) -> None:
        """Hand it on."""
        self.inner.restore(numbers)
