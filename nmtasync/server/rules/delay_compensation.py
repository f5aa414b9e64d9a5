"""Delay compensation: a first-order estimate of the gradient at the parameters of now.

Source: Zheng, Meng, Wang, Chen, Yu, Ma and Liu 2017, "Asynchronous Stochastic Gradient Descent
with Delay Compensation" (arXiv 1609.08326), equation 10.
"""

from __future__ import annotations

import torch

from nmtasync.server.rules.base import Applied, OuterRule, Rule, RuleSetup, ShardPush


class DelayCompensation(OuterRule):
    """Adds λ g⊙g⊙(θ_now - θ_fetched), with g the gradient per target word.

    For each slot of each worker it keeps a backup [n] of the parameters that were fetched last.
    """

    def __init__(self, setup: RuleSetup, inner: Rule) -> None:
        super().__init__(setup, inner)
        self.parameters = setup.vector("parameters")
        self.strength = setup.config.asynchronous.compensation_strength
        self.backups = [
            [
                setup.vector(f"backup.{worker}.{slot}")
                for slot in range(setup.config.asynchronous.num_slots)
            ]
            for worker in range(setup.num_workers)
        ]

    def apply(self, push: ShardPush) -> Applied | None:
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
