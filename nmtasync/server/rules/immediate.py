"""Each push is one update of the optimizer, the moment it arrives."""

from __future__ import annotations

from nmtasync.optim.schedules import betas_at, lead_at, learning_rate_at
from nmtasync.optim.slice_optimizer import build_slice_optimizer
from nmtasync.optim.update import Update
from nmtasync.server.rules.base import Applied, Rule, RuleSetup, ShardPush


class Immediate(Rule):
    """The optimizer's own update; its clock is the version of the shard."""

    def __init__(self, setup: RuleSetup) -> None:
        self.config = setup.config
        self.optimizer = build_slice_optimizer(setup.config.optimizer, setup.vector)

    def apply(self, push: ShardPush) -> Applied:
        """Apply one push as one update."""
        config, number, words = self.config, push.version + 1, push.target_words
        rate = learning_rate_at(number, words, config.schedule, push.progress)
        rate *= push.learning_rate_scale
        late = push.usual_staleness
        beta1, beta2 = betas_at(number, words, config.optimizer, config.schedule, late)
        lead = lead_at(push.staleness, beta1, config.asynchronous)
        self.optimizer.update(push.gradient, Update(number, words, rate, beta1, beta2, lead))
        return Applied(rate, words)
