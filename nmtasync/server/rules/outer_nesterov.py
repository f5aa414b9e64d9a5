"""DiLoCo's outer step: Nesterov momentum on the deltas of local steps.

Sources: Douillard et al. 2023, "DiLoCo" (arXiv 2311.08105), algorithm 1; the delayed variant for
asynchronous workers: Liu et al. 2024, "Asynchronous Local-SGD Training for Language Modeling"
(arXiv 2401.09135), algorithm 3.
"""

from __future__ import annotations

from torch import Tensor

from nmtasync.server.rules.base import Applied, Rule, RuleSetup, ShardPush


class OuterNesterov(Rule):
    """Takes pushes as outer gradients g = θ_fetched - θ_local.

    Every push is applied as plain gradient descent, θ ← θ - lr g / k; every k-th one refreshes
    the momentum from the mean of the last k, m ← β m + mean(g), and also applies
    θ ← θ - lr β m. With k = 1 this is Nesterov's momentum as DiLoCo has it.

    Attributes:
        num_pushes: k.
        pending: [n], the sum of outer gradients since the last refresh; None where k is 1.
        seen: How many pushes have come.
    """

    def __init__(self, setup: RuleSetup) -> None:
        options = setup.config.asynchronous
        self.learning_rate = options.outer_learning_rate
        self.beta = options.outer_momentum
        self.num_pushes = options.outer_delay or setup.num_workers
        self.parameters = setup.vector("parameters")
        self.momentum = setup.vector("outer_momentum")
        self.pending = setup.vector("outer_pending") if self.num_pushes > 1 else None
        self.seen = 0

    def apply(self, push: ShardPush) -> Applied:
        """Apply one push as one outer step."""
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
        return Applied(rate, push.target_words)

    def _refresh(self, mean: Tensor, rate: float) -> None:
        self.momentum.mul_(self.beta).add_(mean)
        self.parameters.add_(self.momentum, alpha=-rate * self.beta)

    def numbers(self) -> dict[str, int]:
        """How many pushes came since the start."""
        return {"outer_seen": self.seen}

    def restore(self, numbers: dict[str, int]) -> None:
        """Go on after as many."""
        self.seen = numbers["outer_seen"]
