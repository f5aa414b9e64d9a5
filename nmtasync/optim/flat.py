"""A model as one vector: every parameter, and every gradient, is a view of a flat buffer.

Shapes: P is the length of the vector.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)

SHARD_ALIGNMENT = 64
"""Shard bounds are multiples of this many elements: a shard that ended elsewhere would put other
elements in the scalar tail of the vectorised Adam, and results would depend on the sharding."""

PARAMETER_ALIGNMENT = 16
"""Each parameter begins on a cache line, which matrix products prefer."""


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """Where each parameter of a model lies in the vector.

    Parameters that a model uses twice (tied embeddings) occur once. The padding between
    parameters is zero and stays zero: its gradient is.

    Attributes:
        shapes: Of each parameter, by name, in the model's order.
        starts: Where each begins, in the same order.
        size: P.
    """

    shapes: dict[str, torch.Size]
    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Lay out a model; its parameters may have no memory (device "meta")."""
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        lengths = (_round_up(shape.numel(), PARAMETER_ALIGNMENT) for shape in shapes.values())
        *starts, size = itertools.accumulate(lengths, initial=0)
        return cls(shapes, tuple(starts), _round_up(size, SHARD_ALIGNMENT))

    @property
    def num_parameters(self) -> int:
        """How many parameters the model has, tied ones counted once."""
        return sum(shape.numel() for shape in self.shapes.values())

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector [P] into tensors of the parameters' shapes, by name, in their order."""
        places = zip(self.shapes.items(), self.starts, strict=True)
        return {
            name: vector[start : start + shape.numel()].view(shape)
            for (name, shape), start in places
        }

    def gather(self, model: nn.Module, vector: Tensor | None = None) -> Tensor:
        """Copy a model's parameters into a vector [P], a new one if none is given."""
        if vector is None:
            vector = next(model.parameters()).detach().new_empty(self.size)
        vector.zero_()
        for view, parameter in zip(self.views(vector).values(), model.parameters(), strict=True):
            view.copy_(parameter.data)
        return vector


class FlatModel(Generic[ModelT]):
    """A model whose parameters and gradients live in two vectors, of the model's type.

    Args:
        model: The model; its parameters are moved into the vector.
        parameters: [P], where they shall live, for example in shared memory; its content is
            overwritten by the model's. None allocates it.
        gradients: [P], likewise; it is set to zero.

    Attributes:
        layout: Where each parameter lies.
    """

    def __init__(
        self, model: ModelT, parameters: Tensor | None = None, gradients: Tensor | None = None
    ) -> None:
        self.model = model
        self.layout = Layout.of(model)
        self._by_name = dict(model.named_parameters())
        parameters = self.layout.gather(model, parameters)
        gradients = torch.empty_like(parameters) if gradients is None else gradients
        self.bind(parameters, gradients)
        gradients.zero_()

    @property
    def size(self) -> int:
        """P."""
        return self.layout.size

    def bind(self, parameters: Tensor, gradients: Tensor) -> None:
        """Bind the model's parameters and gradients to these vectors [P], as views of them."""
        assert parameters.shape == gradients.shape == (self.size,)
        assert parameters.dtype == gradients.dtype == next(self.model.parameters()).dtype
        self.parameters, self.gradients = parameters, gradients
        values, sums = self.layout.views(parameters), self.layout.views(gradients)
        for name, parameter in self._by_name.items():
            parameter.data = values[name]
            parameter.grad = sums[name]


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
