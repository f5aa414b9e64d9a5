"""Delay compensation: a first-order estimate of the gradient at the parameters of now.

Source: Zheng, Meng, Wang, Chen, Yu, Ma and Liu 2017, "Asynchronous Stochastic Gradient Descent
with Delay Compensation" (arXiv 1609.08326), equation 10.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmtasync.server.rules.base import OuterRule, Rule, ShardPush


class DelayCompensation(OuterRule):
    """Adds λ g⊙g⊙(θ_now - θ_fetched), with g the gradient per target word.

    Args:
        inner: What happens to a compensated push.
        parameters: [n], θ_now.
        backups: For each slot of each worker the parameters that it fetched last, [n].
        strength: λ.
    """

    def __init__(
        self, inner: Rule, parameters: Tensor, backups: list[list[Tensor]], strength: float
    ) -> None:
        super().__init__(inner)
        self.parameters = parameters
        self.backups = backups
        self.strength = strength

    def apply(self, push: ShardPush) -> float | None:
        """Compensate a push for what has changed since its worker fetched."""
        moved = torch.sub(self.parameters, self.backups[push.worker][push.slot])
        # the gradient is a sum over words: w g + λ w g⊙g⊙moved = G + (λ / w) G⊙G⊙moved
        scale = self.strength / push.target_words
        push.gradient.addcmul_(push.gradient.square(), moved, value=scale)
        return self.inner.apply(push)

    def fetched(self, worker: int, slot: int) -> None:
        """Keep what the worker is handed."""
        self.backups[worker][slot].copy_(self.parameters)
        super().fetched(worker, slot)
