"""DiLoCo's outer step: Nesterov momentum on the deltas of local steps.

Sources: Douillard et al. 2023, "DiLoCo" (arXiv 2311.08105), algorithm 1; the delayed variant for
asynchronous workers: Liu et al. 2024, "Asynchronous Local-SGD Training for Language Modeling"
(arXiv 2401.09135), algorithm 3.
"""

from __future__ import annotations

from torch import Tensor

from nmtasync.server.rules.base import ShardPush


class OuterNesterov:
    """Takes pushes as outer gradients g = θ_fetched - θ_local.

    Every push is applied as plain gradient descent, θ ← θ - lr g / k; every k-th one refreshes
    the momentum from the mean of the last k, m ← β m + mean(g), and also applies
    θ ← θ - lr β m. With k = 1 this is Nesterov's momentum as DiLoCo has it.

    Args:
        parameters: [n].
        momentum: [n], zero at first.
        pending: [n], the sum of outer gradients since the last refresh, zero at first; None where
            k is 1.
        learning_rate: The outer one.
        beta: β.
        num_pushes: k.
    """

    def __init__(
        self,
        parameters: Tensor,
        momentum: Tensor,
        pending: Tensor | None,
        learning_rate: float,
        beta: float,
        num_pushes: int,
    ) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.pending = pending
        self.learning_rate = learning_rate
        self.beta = beta
        self.num_pushes = num_pushes
        self.seen = 0

    def apply(self, push: ShardPush) -> float:
        """Make one outer step."""
        rate = self.learning_rate * push.learning_rate_scale
        outer = push.gradient.div_(push.target_words)
        self.seen += 1
        self.parameters.add_(outer, alpha=-rate / self.num_pushes)
        if self.pending is None:
            self._refresh(outer, rate)
        else:
            self.pending.add_(outer, alpha=1 / self.num_pushes)
            if self.seen % self.num_pushes == 0:
                self._refresh(self.pending, rate)
                self.pending.zero_()
        return rate

    def _refresh(self, mean: Tensor, rate: float) -> None:
        self.momentum.mul_(self.beta).add_(mean)
        self.parameters.add_(self.momentum, alpha=-rate * self.beta)

    def fetched(self, worker: int, slot: int) -> None:
        """Nothing depends on who holds which parameters."""

    def counts(self) -> dict[str, int]:
        """How many pushes came since the start."""
        return {"outer_seen": self.seen}

    def restore(self, counts: dict[str, int]) -> None:
        """Go on after as many."""
        self.seen = counts["outer_seen"]
