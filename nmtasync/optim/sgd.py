"""Stochastic gradient descent with momentum, plain or Nesterov's.

Source: Sutskever, Martens, Dahl and Hinton 2013, as PyTorch writes it: v ← μ v + g.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nmtasync.optim.update import Update


@dataclass(frozen=True)
class Sgd:
    """SGD's state for a slice of parameters, and its update.

    Attributes:
        parameters: [n] of float32, updated in place.
        velocity: [n], zero at first; None without momentum.
        momentum: μ.
        nesterov: Whether to look ahead.
    """

    parameters: Tensor
    velocity: Tensor | None
    momentum: float
    nesterov: bool

    def update(self, gradient: Tensor, update: Update) -> None:
        """Apply one gradient [n], which is overwritten."""
        step = gradient.div_(update.divisor)
        if self.velocity is not None:
            self.velocity.mul_(self.momentum).add_(gradient)
            if self.nesterov:
                gradient.add_(self.velocity, alpha=self.momentum)
            else:
                step = self.velocity
        self.parameters.add_(step, alpha=-update.learning_rate)
