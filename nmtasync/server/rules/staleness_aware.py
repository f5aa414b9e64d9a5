"""The staleness-aware learning rate: what comes late counts less.

Source: Zhang, Gupta, Lian and Liu 2016, "Staleness-aware Async-SGD for Distributed Deep Learning"
(arXiv 1511.05950), with 1 / (1 + staleness), so that a fresh gradient counts whole.
"""

from __future__ import annotations

from nmtasync.server.rules.base import Applied, OuterRule, ShardPush


class StalenessAware(OuterRule):
    """Scales the learning rate of each push by 1 / (1 + its staleness)."""

    def apply(self, push: ShardPush) -> Applied | None:
        """Hand the push on with a smaller learning rate."""
        push.learning_rate_scale /= 1 + push.staleness
        return self.inner.apply(push)
