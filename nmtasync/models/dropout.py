"""Dropout that costs little on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Set activations to zero with a probability, and scale the others so that the mean stays.

    On a CPU, PyTorch draws one Bernoulli number for each element, which takes longer than the
    matrix product beside it. Here 64 random bits decide on four elements, and the mask is a
    float tensor, because multiplying by booleans isn't vectorised. The probability is
    rounded to a multiple of 2^-16 and the scale follows what it was rounded to.

    Args:
        probability: With which an element is dropped, from 0 to below 1.
        shared: A dimension along which all elements are dropped alike; None for none. Of
            sequences [B, T, D] that is 1 for variational dropout, which drops the same elements
            at all pieces (Gal and Ghahramani 2016, "A Theoretically Grounded Application of
            Dropout in Recurrent Neural Networks"), and -1 to drop whole pieces.
    """

    def __init__(self, probability: float, shared: int | None = None) -> None:
        super().__init__()
        assert 0.0 <= probability < 1.0
        self.probability = probability
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of a tensor of any shape while training; else return it as it is."""
        if self.shared is None and x.device.type != "cpu":
            return F.dropout(x, self.probability, self.training)
        mask = self.mask(x if self.shared is None else x.narrow(self.shared, 0, 1))
        return x if mask is None else x * mask

    def mask(self, like: Tensor) -> Tensor | None:
        """Draw a mask of a tensor's shape, to be multiplied by; None if nothing is dropped."""
        if not self.training or self.probability == 0.0:
            return None
        return keep_mask(like, self.probability)

    def extra_repr(self) -> str:
        """Show the probability when the module is printed."""
        return f"{self.probability}, shared={self.shared}"


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """Draw the mask of a dropout from the device's global generator.

    Returns:
        A tensor of `like`'s shape and type: zero with `probability`, else what keeps the mean.
    """
    if like.device.type != "cpu":
        return F.dropout(torch.ones_like(like), probability)
    count = like.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    noise = bits.view(torch.int16)[:count].view(like.shape)
    kept = max(1, round((1.0 - probability) * _LEVELS))
    mask = torch.empty(like.shape, dtype=like.dtype)
    torch.lt(noise, kept - _LEVELS // 2, out=mask)
    return mask.mul_(_LEVELS / kept)
