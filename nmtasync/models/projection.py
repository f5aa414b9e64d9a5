"""A linear layer whose product can be layer-normalised.

Source: Ba et al. 2016, "Layer Normalization", section 3.1, which normalises the sums that go into
a recurrent cell from its input and from its state apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
"""What layer normalisation adds to a variance."""


class Projection(nn.Linear):
    """weight @ x + bias, or on request gain * normalised(weight @ x) + bias.

    Args:
        inputs: Width of what it reads.
        outputs: Width of what it gives.
        normalised: Whether there is a layer normalisation.
        bias: Whether there is a bias.
    """

    def __init__(
        self, inputs: int, outputs: int, *, normalised: bool = False, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.gain = nn.Parameter(torch.ones(outputs)) if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        """Project a tensor [..., inputs] to [..., outputs]."""
        return project(x, *self.parts())

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return weight [outputs, inputs], bias and gain [outputs], as `project` takes them."""
        return self.weight, self.bias, self.gain


def project(x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None) -> Tensor:
    """Compute a `Projection` with the parameters given; a gain of None normalises nothing."""
    if gain is None:
        return F.linear(x, weight, bias)
    return F.layer_norm(F.linear(x, weight), gain.shape, gain, bias, EPSILON)
