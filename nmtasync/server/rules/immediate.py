"""Each push is one update of the optimizer, the moment it arrives."""

from __future__ import annotations

from nmtasync.config.schema import OptimizerConfig, ScheduleConfig
from nmtasync.optim.schedules import betas_at, learning_rate_at
from nmtasync.optim.step import Step
from nmtasync.server.rules.base import ShardPush


class Immediate:
    """The innermost rule: the optimizer's own update.

    Args:
        step: The optimizer of the shard.
        optimizer: Its betas.
        schedule: The learning rate, and the words that the betas are meant for.
        momentum_lead: How far to look ahead along Adam's first moment for each update that a push
            is late.
    """

    def __init__(
        self,
        step: Step,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        momentum_lead: float,
    ) -> None:
        self.step = step
        self.optimizer = optimizer
        self.schedule = schedule
        self.momentum_lead = momentum_lead

    def apply(self, push: ShardPush) -> float:
        """Apply one push as one update."""
        number = push.version + 1
        rate = learning_rate_at(number, push.target_words, self.schedule, push.progress)
        rate *= push.learning_rate_scale
        beta1, beta2 = betas_at(number, push.target_words, self.optimizer, self.schedule)
        self.step.update(
            push.gradient,
            divisor=push.target_words,
            number=number,
            learning_rate=rate,
            beta1=beta1,
            beta2=beta2,
            lead=self.momentum_lead * push.staleness,
        )
        return rate

    def fetched(self, worker: int, slot: int) -> None:
        """Nothing depends on who holds which parameters."""

    def counts(self) -> dict[str, int]:
        """There are none: the optimizer's clock is the shard's version."""
        return {}

    def restore(self, counts: dict[str, int]) -> None:
        """There is nothing to restore."""
