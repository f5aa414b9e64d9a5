"""Gradient dropping: push only the largest part of a gradient, keep the rest for later.

Shapes: P is the length of the parameter vector, K of what is pushed.

Sources: Aji and Heafield 2017, "Sparse Communication for Distributed Gradient Descent"
(arXiv 1704.05021); the local gradient: Aji, Heafield and Bogoychev 2019, "Combining Global
Sparse Gradients with Local Gradients in Distributed Neural Machine Translation" (D19-1373).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmtasync.config.schema import AsynchronousConfig


def drop_rate_at(pushes: int, config: AsynchronousConfig) -> float:
    """The share of a gradient that is dropped; it rises linearly from 0.

    Args:
        pushes: Those that the worker has made.
        config: The rate, and over how many pushes it rises.
    """
    assert config.drop_rate is not None
    warmup = config.drop_warmup_pushes
    return config.drop_rate * (min(1.0, pushes / warmup) if warmup else 1.0)


class GradientDropper:
    """Splits each gradient of a worker into what is pushed and what is kept.

    Args:
        size: P.
        device: Where the gradients are.

    Attributes:
        residual: [P], what has been kept so far; it is added to the next gradient.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.residual = torch.zeros(size, device=device)

    def split(self, gradient: Tensor, rate: float) -> None:
        """Leave in the gradient [P], in place, what is pushed, and keep the rest.

        The residual counts: what is largest of the sum of both is pushed, and nothing is lost.

        Args:
            gradient: [P].
            rate: The share of elements that is dropped.
        """
        total = self.residual.add_(gradient)
        kept = num_kept(total.numel(), rate)
        places = torch.topk(total.abs(), kept, sorted=False).indices
        gradient.zero_()
        gradient[places] = total[places]
        total[places] = 0.0


def num_kept(size: int, rate: float) -> int:
    """How many of `size` elements are pushed: one at least."""
    return max(1, size - int(size * rate))
