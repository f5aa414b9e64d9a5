"""Pushes that are less than the gradient: what they leave out is kept, and goes with later ones.

Gradient dropping leaves out the smallest elements, `asynchronous.exchange_precision` what rounding
takes off. One residual serves both, so that the sum of all that a worker has pushed and of what it
keeps is the sum of its gradients. fp16 needs no scale for that: what it can't hold, beyond 65504
or below 6e-8, stays in the residual, the former until it has been pushed in parts, the latter until
it has grown.

Shapes: P is the length of the parameter vector.

Sources: Seide et al. 2014, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
Distributed Training of Speech DNNs", section 3; Karimireddy et al. 2019, "Error Feedback Fixes
SignSGD and other Gradient Compression Schemes" (arXiv 1901.09847).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmtasync.config.schema import AsynchronousConfig
from nmtasync.server.wire import Wire, blocks
from nmtasync.worker.gradient_dropping import drop_rate_at, keep_largest


class ErrorFeedback:
    """Splits each gradient of a worker into what is pushed and what is kept.

    Args:
        size: P.
        device: Where the gradients are.
        config: What is dropped and how it is rounded.

    Attributes:
        residual: [P], what has been kept so far; it is added to the next gradient.
    """

    def __init__(self, size: int, device: torch.device, config: AsynchronousConfig) -> None:
        self.config = config
        self.wire = Wire(config.exchange_precision)
        self.residual = torch.zeros(size, device=device)

    def split(self, gradient: Tensor, pushes: int) -> None:
        """Leave in the gradient, in place, what is pushed of it and the residual; keep the rest.

        Args:
            gradient: [P], all of it finite.
            pushes: Those that the worker has made before.
        """
        if self.config.drop_rate is not None:
            total = self.residual.add_(gradient)
            keep_largest(total, drop_rate_at(pushes, self.config), out=gradient)
        for pushed, kept in blocks(gradient, self.residual):
            if self.config.drop_rate is None:
                kept.copy_(pushed.add_(kept))
            self._round(pushed)
            kept.sub_(pushed)

    def _round(self, pushed: Tensor) -> None:
        if self.config.exchange_precision != "fp32":
            largest = torch.finfo(self.wire.dtype).max
            self.wire.round_(pushed.clamp_(-largest, largest))
