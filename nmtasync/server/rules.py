"""What a push does to a shard. Each rule is one small class behind one interface.

Shapes: n is the length of a shard.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from nmtasync.config.schema import OptimizerConfig, ScheduleConfig
from nmtasync.optim.adam import Adam
from nmtasync.optim.schedules import learning_rate_at


class Rule(Protocol):
    """Applies pushes to one shard, of which it owns the optimizer state.

    Attributes:
        vectors: The names of the state vectors [n] that the rule keeps, besides the parameters.
    """

    vectors: tuple[str, ...]

    def apply(self, gradient: Tensor, *, target_words: int, version: int) -> float:
        """Apply one push.

        Args:
            gradient: [n], summed over the target words; the rule may overwrite it.
            target_words: How many there are.
            version: The updates that the shard has made so far.

        Returns:
            The learning rate that was used.
        """
        ...


class ImmediateAdam:
    """Each push is one Adam update, the moment it arrives."""

    vectors: tuple[str, ...] = ("first_moment", "second_moment")

    def __init__(
        self,
        parameters: Tensor,
        state: dict[str, Tensor],
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
    ) -> None:
        first, second = (state[name] for name in self.vectors)
        self.adam = Adam(parameters, first, second, optimizer.epsilon)
        self.optimizer = optimizer
        self.schedule = schedule

    def apply(self, gradient: Tensor, *, target_words: int, version: int) -> float:
        """Apply one push as one update."""
        rate = learning_rate_at(version + 1, target_words, self.schedule)
        self.adam.update(
            gradient,
            divisor=target_words,
            number=version + 1,
            learning_rate=rate,
            beta1=self.optimizer.beta1,
            beta2=self.optimizer.beta2,
        )
        return rate
