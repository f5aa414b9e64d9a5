"""A model as one vector: every parameter, and every gradient, is a view of a flat buffer.

Shapes: P is the length of the vector.
"""

from __future__ import annotations

import itertools
from typing import Generic, TypeVar

from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)

SHARD_ALIGNMENT = 64
"""Shard bounds are multiples of this many elements: a shard that ended elsewhere would put other
elements in the scalar tail of the vectorised Adam, and results would depend on the sharding."""

PARAMETER_ALIGNMENT = 16
"""Each parameter begins on a cache line, which matrix products prefer."""


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class FlatModel(Generic[ModelT]):
    """A model whose parameters and gradients live in two vectors.

    Parameters that a model uses twice (tied embeddings) occur once. The padding between
    parameters is zero and stays zero: its gradient is. The vectors are of the model's type.

    Args:
        model: The model; its parameters are moved into the vector.
        parameters: [P], where they shall live, for example in shared memory; its content is
            overwritten by the model's. None allocates it.
        gradients: [P], likewise; it is set to zero.
    """

    def __init__(
        self, model: ModelT, parameters: Tensor | None = None, gradients: Tensor | None = None
    ) -> None:
        self.model = model
        self._places: list[tuple[nn.Parameter, int]] = []
        size = 0
        for parameter in model.parameters():
            self._places.append((parameter, size))
            size += _round_up(parameter.numel(), PARAMETER_ALIGNMENT)
        self.size = _round_up(size, SHARD_ALIGNMENT)
        like = self._places[0][0].detach()
        if parameters is None:
            parameters = like.new_empty(self.size)
        if gradients is None:
            gradients = like.new_empty(self.size)
        parameters.zero_()
        for view, (parameter, _) in zip(self.views(parameters), self._places, strict=True):
            view.copy_(parameter.data)
        self.bind(parameters, gradients)
        gradients.zero_()

    def bind(self, parameters: Tensor, gradients: Tensor) -> None:
        """Let the model read its parameters from, and add its gradients to, these vectors."""
        assert parameters.shape == gradients.shape == (self.size,)
        assert parameters.dtype == gradients.dtype == self._places[0][0].dtype
        self.parameters, self.gradients = parameters, gradients
        places = zip(self._places, self.views(parameters), self.views(gradients), strict=True)
        for (parameter, _), value, gradient in places:
            parameter.data = value
            parameter.grad = gradient

    def views(self, vector: Tensor) -> list[Tensor]:
        """Cut a vector [P] into tensors of the parameters' shapes, in their order."""
        return [
            vector[start : start + parameter.numel()].view_as(parameter)
            for parameter, start in self._places
        ]


def shard_bounds(size: int, num_shards: int) -> list[slice]:
    """Cut a vector of `size` elements into contiguous shards of about the same length.

    Raises:
        ValueError: There are more shards than blocks of `SHARD_ALIGNMENT` elements.
    """
    assert size % SHARD_ALIGNMENT == 0
    blocks = size // SHARD_ALIGNMENT
    if not 1 <= num_shards <= blocks:
        raise ValueError(f"{size} parameters can't be cut into {num_shards} shards")
    edges = [blocks * i // num_shards * SHARD_ALIGNMENT for i in range(num_shards + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]
