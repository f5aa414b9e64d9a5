"""Embeddings of both sides and the output projection, shared as the configuration asks.

Shapes: V pieces of a vocabulary, D dimension.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.config.schema import ModelConfig
from nmtasync.models.dropout import Dropout
from nmtasync.models.wide_gradient import WideGradient

VOCABULARY_OF = {
    "embeddings.source": "source",
    "embeddings.target": "target",
    "embeddings.output": "target",
    "embeddings.output_bias": "target",
}
"""The parameters of any model that have one row for each piece, and the side whose pieces they are
(both sides', where all matrices are one)."""

BOS = 2
"""The id of the beginning of sentence; the same as the vocabulary's, which this layer doesn't
import."""


class Embeddings(nn.Module):
    """Source embedding, target embedding and output projection.

    A shared matrix is one parameter with one name, so that a list of the parameters holds it
    once. Embeddings are scaled by sqrt(D) when they are looked up and drawn from N(0, 1 / D), so
    that they enter the network with unit variance and fit the output projection as they are; on
    request they are not scaled.
    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models";
    Vaswani et al. 2017, section 3.4.

    Args:
        config: Which matrices are one, D, the dropout of whole pieces, and whether that of the
            beginning of sentence is zero for the decoder.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
    """

    def __init__(self, config: ModelConfig, source_size: int, target_size: int) -> None:
        super().__init__()
        tied, dimension = config.tied_embeddings, config.dimension
        assert tied != "all" or source_size == target_size
        self.scale = math.sqrt(dimension) if config.scale_embeddings else 1.0
        self.zero_start = config.zero_start

        def matrix(size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(size, dimension) / math.sqrt(dimension))

        self.target = matrix(target_size)
        self.source = None if tied == "all" else matrix(source_size)
        self.output = matrix(target_size) if tied == "none" else None
        self.output_bias = nn.Parameter(torch.zeros(target_size))
        self.source_dropout = Dropout(config.dropout_source_words, shared=-1)
        self.target_dropout = Dropout(config.dropout_target_words, shared=-1)

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output projection [V, D]."""
        return self.target if self.output is None else self.output

    def embed_source(self, ids: Tensor) -> Tensor:
        """Look source ids up: [...] to [..., D]."""
        matrix = self.target if self.source is None else self.source
        embedded: Tensor = self.source_dropout(look_up(ids, matrix) * self.scale)
        return embedded

    def embed_target(self, ids: Tensor) -> Tensor:
        """Look target ids up: [...] to [..., D]."""
        rows = look_up(ids, self.target) * self.scale
        if self.zero_start:
            rows = rows.masked_fill((ids == BOS).unsqueeze(-1), 0.0)
        embedded: Tensor = self.target_dropout(rows)
        return embedded


def look_up(ids: Tensor, matrix: Tensor) -> Tensor:
    """Select rows [..., D] of a matrix [V, D].

    The gradient of a frequent piece is a sum of thousands; in 16 bits it would stop growing at a
    few hundred times its parts, so it is added up in float32.
    """
    if matrix.dtype in (torch.float16, torch.bfloat16) and matrix.requires_grad:
        wide = WideGradient.of(matrix)
        rows: Tensor = _HalfLookUp.apply(ids, matrix, wide)  # type: ignore[no-untyped-call]
        return rows
    return F.embedding(ids, matrix)


class _HalfLookUp(torch.autograd.Function):
    """A look-up in a matrix of 16 bits, with a gradient summed in 32."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, matrix: Tensor, wide: WideGradient | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype, ctx.wide = matrix.shape, matrix.dtype, wide
        return F.embedding(ids, matrix)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[None, Tensor | None, None]:
        (ids,) = ctx.saved_tensors
        wide = ctx.wide or WideGradient(ctx.shape)
        wide.add_rows(ids, grad_rows.float())
        total = None if ctx.wide else wide.take()
        return None, None if total is None else total.to(ctx.dtype), None
