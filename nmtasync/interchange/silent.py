"""Rows of pieces that a network has never predicted, and must not."""

from __future__ import annotations

import torch
from torch import Tensor

SILENT = -1e4
"""The bias of such a piece: its probability is 0 in any precision, and so are all gradients."""


def with_silent_row(matrix: Tensor) -> Tensor:
    """Add a row of zeros: [V, D] to [V + 1, D]."""
    return torch.cat((matrix, matrix.new_zeros(1, matrix.shape[1])))


def with_silent_bias(bias: Tensor) -> Tensor:
    """Add the bias of such a piece: [V] to [V + 1]."""
    return torch.cat((bias, bias.new_full((1,), SILENT)))
