"""Where in its sentence a piece stands: added to embeddings, or turned into queries and keys.

Shapes: B sentences, L pieces, D dimension, E width of an attention head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nmtasync.errors import UserError

_BASE = 10_000.0
_FIRST_LENGTH = 256


class Positions(nn.Module, ABC):
    """Positions that are added to embeddings.

    Attributes:
        max_length: How many there are; None for as many as are asked for.
    """

    max_length: int | None = None

    @abstractmethod
    def rows(self, start: int, length: int, like: Tensor) -> Tensor:
        """Return the positions from `start` on, of type and on the device of `like` [length, D]."""

    def forward(self, embedded: Tensor) -> Tensor:
        """Add the positions from the first on to embeddings [B, L, D]."""
        return embedded + self.rows(0, embedded.shape[1], embedded)


class SinusoidalPositions(Positions):
    """Fixed positions of any length.

    Args:
        dimension: D, an even number.
        compute: What computes so many of them: `sinusoids` or `paper_sinusoids`.
    """

    def __init__(self, dimension: int, compute: Callable[[int, int], Tensor]) -> None:
        super().__init__()
        self._compute = compute
        self._table = self._compute(_FIRST_LENGTH, dimension)

    def rows(self, start: int, length: int, like: Tensor) -> Tensor:
        """Return positions, as the interface says; there are as many as are asked for."""
        table = self._table = _reaching(self._table, start + length, like, self._compute)
        return table[start : start + length]


class LearnedPositions(Positions):
    """A parameter for each position; drawn and scaled as embeddings are.

    Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1.

    Args:
        max_length: How many positions there are.
        dimension: D.
    """

    def __init__(self, max_length: int, dimension: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.scale = math.sqrt(dimension)
        self.table = nn.Parameter(torch.randn(max_length, dimension) / self.scale)

    def rows(self, start: int, length: int, like: Tensor) -> Tensor:
        """Return positions, as the interface says.

        Raises:
            UserError: There are fewer.
        """
        known, asked = self.table.shape[0], start + length
        if asked > known:
            raise UserError(
                f"is {known}, but a sentence has {asked} pieces, its end counted",
                where="model.max_positions",
                remedy="shorten it, or train with more positions or other model.positions",
            )
        return self.table[start : start + length] * self.scale


class RotaryPositions(nn.Module):
    """Turns queries and keys by angles that grow with the position.

    Their products then depend on how far apart two pieces are, not on where they stand. Element i
    is paired with element i + E / 2; the paper pairs neighbours, which is the same up to the
    order of the elements.
    Source: Su et al. 2021, "RoFormer", equation 34.

    Args:
        width: E, an even number.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self._table = rotations(_FIRST_LENGTH, width)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Turn vectors [B, L, ..., E] that stand at the positions from `start` on."""
        length, end = x.shape[1], start + x.shape[1]
        table = self._table = _reaching(self._table, end, x, rotations)
        between = [1] * (x.dim() - 3)
        cosines, sines = table[start:end].view(length, *between, -1).chunk(2, dim=-1)
        first, second = x.chunk(2, dim=-1)
        turned = (first * cosines - second * sines, first * sines + second * cosines)
        return torch.cat(turned, dim=-1)


def sinusoids(length: int, dimension: int) -> Tensor:
    """Compute fixed positions, the sines first and then the cosines [length, D].

    The last wave is 10,000 times as slow as the first, as in tensor2tensor and Marian; in the paper
    it would be the one after it.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    half = dimension // 2
    rates = torch.exp(torch.arange(half) * (-math.log(_BASE) / max(1, half - 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def paper_sinusoids(length: int, dimension: int) -> Tensor:
    """Compute fixed positions with the paper's rates, as Hugging Face does [length, D].

    Source: as of `sinusoids`; in double precision.
    """
    rates = _BASE ** (torch.arange(0, dimension, 2, dtype=torch.float64) / -dimension)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


def rotations(length: int, width: int) -> Tensor:
    """Compute the cosines and then the sines of RoFormer's angles [length, E].

    In double precision: large angles would lose their place in the circle.
    """
    rates = _BASE ** (torch.arange(0, width, 2, dtype=torch.float64) / -width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def _reaching(
    table: Tensor, end: int, like: Tensor, compute: Callable[[int, int], Tensor]
) -> Tensor:
    """Return the table if it has `end` rows as `like` is, otherwise a new one, often longer."""
    if table.shape[0] >= end and table.device == like.device and table.dtype == like.dtype:
        return table
    size = max(table.shape[0], 1 << (end - 1).bit_length())
    return compute(size, table.shape[1]).to(like)
