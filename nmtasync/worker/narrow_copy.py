"""The network in 16 bits that computes gradients for the one in float32.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.wide_gradient import WideGradient
from nmtasync.optim.flat import FlatModel

_BLOCK = 1 << 16
"""So many elements are widened at a time on a CPU: else a tensor of them all is made for it."""


class NarrowCopy:
    """A copy of a network whose parameters have 16 bits, and lie in one vector as there.

    Its gradients are tensors of their own, which live while a batch is computed: nothing has to
    be set to zero, and backward passes hand them over without a copy. Those of embeddings are
    summed in float32.

    Args:
        flat: The network, in float32.
        dtype: Of the copy.

    Attributes:
        model: The copy.
    """

    def __init__(self, flat: FlatModel[SequenceToSequence], dtype: torch.dtype) -> None:
        self.flat = flat
        self.model = copy.deepcopy(flat.model).to(dtype)
        self._vector = flat.layout.gather(self.model)
        self._by_name = dict(self.model.named_parameters())
        for name, view in flat.layout.views(self._vector).items():
            self._by_name[name].data = view
        for parameter in self.model.embeddings.parameters():
            WideGradient.give(parameter)
        self.drop_gradients()

    def follow(self) -> None:
        """Take over the parameters, in one pass, rounded."""
        self._vector.copy_(self.flat.parameters)

    def drop_gradients(self) -> None:
        """Forget gradients, as those of a backward pass that failed."""
        for parameter in self._by_name.values():
            parameter.grad = None
            if wide := WideGradient.of(parameter):
                wide.take()

    def hand_over(self, factor: float) -> None:
        """Add the gradients times a factor to `flat.gradients` [P], and forget them."""
        sums = self.flat.layout.views(self.flat.gradients)
        for name, parameter in self._by_name.items():
            wide = WideGradient.of(parameter)
            for gradient in (parameter.grad, None if wide is None else wide.take()):
                if gradient is not None:
                    _add(sums[name].flatten(), gradient.flatten(), factor)
        self.drop_gradients()


def _add(total: Tensor, gradient: Tensor, factor: float) -> None:
    """Add a vector, maybe of a narrower type, times a factor."""
    block = _BLOCK if total.device.type == "cpu" else max(len(total), 1)
    parts = zip(torch.split(total, block), torch.split(gradient, block), strict=True)
    for part, addend in parts:
        part.add_(addend, alpha=factor)
