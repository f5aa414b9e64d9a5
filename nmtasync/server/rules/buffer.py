"""The gradient buffer: a shard sums several pushes before it makes one update.

Source: Aji and Heafield 2019, "Making Asynchronous Stochastic Gradient Descent Work for
Transformers" (arXiv 1906.03496).
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from nmtasync.server.rules.base import OuterRule, Rule, ShardPush


class Buffer(OuterRule):
    """Sums pushes and their words, and hands on every k-th sum.

    A shard's version counts the updates, so N workers with a buffer of N have a staleness of
    0 or 1.

    Args:
        inner: What happens to a sum.
        buffer: [n], zero at first.
        num_pushes: k.
    """

    def __init__(self, inner: Rule, buffer: Tensor, num_pushes: int) -> None:
        super().__init__(inner)
        self.buffer = buffer
        self.num_pushes = num_pushes
        self.filled = 0
        self.target_words = 0
        self.staleness = 0

    def apply(self, push: ShardPush) -> float | None:
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
        rate = self.inner.apply(merged)
        self.buffer.zero_()
        self.filled = self.target_words = self.staleness = 0
        return rate

    def counts(self) -> dict[str, int]:
        """How far the buffer is filled."""
        own = {
            "buffer_filled": self.filled,
            "buffer_target_words": self.target_words,
            "buffer_staleness": self.staleness,
        }
        return {**super().counts(), **own}

    def restore(self, counts: dict[str, int]) -> None:
        """Go on with a buffer filled as far."""
        super().restore(counts)
        self.filled = counts["buffer_filled"]
        self.target_words = counts["buffer_target_words"]
        self.staleness = counts["buffer_staleness"]
