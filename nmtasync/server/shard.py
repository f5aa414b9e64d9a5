"""A shard: a contiguous slice of the parameters, and the only way to update it.

Shapes: n is the length of a shard.
"""

from __future__ import annotations

import dataclasses

from nmtasync.config.schema import Config
from nmtasync.optim.schedules import newest_weight_at
from nmtasync.optim.smoothing import smooth
from nmtasync.server.rules.base import RuleSetup, ShardPush
from nmtasync.server.rules.build import build_rule


class Shard:
    """The parameters of a shard and what belongs to them.

    Args:
        bounds: Where it lies in the vector.
        setup: What its rule is built from; its vectors are the state that the shard updates.

    Attributes:
        parameters: [n].
        average: [n], their moving average, which is kept if optimizer.smoothing is on.
        version: How many updates it has made.
    """

    def __init__(self, bounds: slice, setup: RuleSetup) -> None:
        self.bounds = bounds
        self.setup = setup
        self.rule = build_rule(setup)
        self.parameters = setup.vector("parameters")
        self.average = None
        if setup.config.optimizer.smoothing is not None:
            self.average = setup.vector("average")
        self.version = 0

    def reconfigure(self, config: Config) -> None:
        """Go on with other rates: the vectors, the version and what the rule counts stay."""
        numbers = self.rule.numbers()
        self.setup = dataclasses.replace(self.setup, config=config)
        self.rule = build_rule(self.setup)
        self.rule.restore(numbers)

    def apply(self, push: ShardPush) -> float | None:
        """Apply one push by the rule, and count the update if it makes one.

        Returns:
            The learning rate of the update, or None if there was none.
        """
        applied = self.rule.apply(push)
        if applied is None:
            return None
        self.version += 1
        if self.average is not None:
            config, words = self.setup.config, applied.target_words
            weight = newest_weight_at(words, push.seen_words, config.optimizer, config.schedule)
            smooth(self.average, self.parameters, weight)
        return applied.learning_rate
