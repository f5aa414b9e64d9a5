"""Rows of pieces that a network has never predicted, and must not."""

from __future__ import annotations

import torch
from torch import Tensor

SILENT = -1e4
"""The bias of such a piece: its probability is 0 in any precision, and so are all gradients."""


def with_silent_row(matrix: Tensor, place: int) -> Tensor:
    """Put a row of zeros in a place, whose row goes to the end: [V, D] to [V + 1, D]."""
    return _with_row(matrix, matrix.new_zeros(1, matrix.shape[1]), place)


def with_silent_bias(bias: Tensor, place: int) -> Tensor:
    """Put the bias of such a piece in a place, whose bias goes to the end: [V] to [V + 1]."""
    return _with_row(bias, bias.new_full((1,), SILENT), place)


def _with_row(rows: Tensor, row: Tensor, place: int) -> Tensor:
    return torch.cat((rows[:place], row, rows[place + 1 :], rows[place : place + 1]))
