"""The gradient buffer: a shard sums several pushes before it makes one update.

Source: Aji and Heafield 2019, "Making Asynchronous Stochastic Gradient Descent Work for
Transformers" (arXiv 1906.03496).
"""

from __future__ import annotations

import dataclasses

from nmtasync.server.rules.base import Applied, OuterRule, Rule, RuleSetup, ShardPush


class Buffer(OuterRule):
    """Sums pushes and their words, and hands on every k-th sum.

    A shard's version counts the updates, so N workers with a buffer of N have a staleness of
    0 or 1.
    """

    def __init__(self, setup: RuleSetup, inner: Rule) -> None:
        super().__init__(setup, inner)
        self.buffer = setup.vector("buffer")
        self.num_pushes = setup.config.asynchronous.buffer_pushes or setup.num_workers
        self.filled = 0
        self.target_words = 0
        self.staleness = 0

    def apply(self, push: ShardPush) -> Applied | None:
        """Add a push; the one that fills the buffer makes the update."""
        self.buffer.add_(push.gradient)
        self.filled += 1
        self.target_words += push.target_words
        self.staleness = max(self.staleness, push.staleness)
        if self.filled < self.num_pushes:
            return None
        merged = dataclasses.replace(
            push,
            gradient=self.buffer,
            target_words=self.target_words,
            staleness=self.staleness,
        )
        applied = self.inner.apply(merged)
        self.buffer.zero_()
        self.filled = self.target_words = self.staleness = 0
        return applied

    def numbers(self) -> dict[str, int]:
        """How far the buffer is filled."""
        own = {
            "buffer_filled": self.filled,
            "buffer_target_words": self.target_words,
            "buffer_staleness": self.staleness,
        }
        return {**super().numbers(), **own}

    def restore(self, numbers: dict[str, int]) -> None:
        """Go on with a buffer filled as far."""
        super().restore(numbers)
        self.filled = numbers["buffer_filled"]
        self.target_words = numbers["buffer_target_words"]
        self.staleness = numbers["buffer_staleness"]
