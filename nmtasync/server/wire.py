"""What travels between a worker and the server, and how many bytes that is.

`asynchronous.exchange_precision` names the type of the values on their way. Here is where vectors
are rounded to it, in place and still in float32: between processes of one host nothing gets
shorter, since they share their memory, but every driver computes with the bits that hosts would.
A transport between hosts packs what has been rounded, which loses nothing more:
`unpack(pack(x))` is what `round_` makes of x, to the bit.

Pushes are rounded by the worker, which keeps the rest for its next one
(`nmtasync/worker/error_feedback.py`). Parameters are rounded as the server hands them out. Each
fetch replaces all of a replica, so these errors never add up, and the shards are not rounded.

Shapes: P is the length of the parameter vector, K the number of values of a sparse payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.machine.precision import NUMBER_TYPES

_BYTES_PER_PLACE = 4
_BLOCK = 1 << 16
"""So many elements are rounded at a time on a CPU, in its cache, and without a vector of all."""


@dataclass(frozen=True)
class Wire:
    """The form of payloads on their way.

    Attributes:
        precision: The name of the type of their values.
    """

    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The type of the values."""
        return NUMBER_TYPES[self.precision]

    def round_(self, vector: Tensor) -> None:
        """Round a float32 vector in place to what the type can hold, to the nearest, ties to even.

        What is too large for the type becomes infinite.
        """
        if self.dtype != torch.float32:
            for (part,) in blocks(vector):
                part.copy_(part.to(self.dtype))

    def copy(self, target: Tensor, source: Tensor, *, non_blocking: bool = False) -> None:
        """Copy a vector as `round_` would leave it, in one pass; arguments as of `copy_`."""
        if self.dtype == torch.float32:
            target.copy_(source, non_blocking=non_blocking)
            return
        for part, piece in blocks(target, source):
            part.copy_(piece.to(self.dtype), non_blocking=non_blocking)

    def num_bytes(self, size: int, num_values: int | None = None) -> int:
        """How many bytes a payload of `size` elements is, of which `num_values` travel.

        Args:
            size: Of the dense vector.
            num_values: K of a sparse payload, whose values are followed by their places; None if
                it is dense.
        """
        if num_values is None:
            return size * self.dtype.itemsize
        return num_values * (self.dtype.itemsize + _BYTES_PER_PLACE)

    def shortest(self, size: int, num_values: int) -> int:
        """How many bytes a payload is, dense or sparse, of which K values are not zero."""
        return min(self.num_bytes(size), self.num_bytes(size, num_values))

    def pack(self, payload: Tensor, num_values: int | None = None) -> Tensor:
        """Write a payload as bytes, on its device.

        Args:
            payload: [P] of float32, dense or as `sparse.pack` leaves it.
            num_values: K of a sparse one.

        Returns:
            `num_bytes` bytes (uint8), in the byte order of this machine.
        """
        if num_values is None:
            return payload.to(self.dtype).view(torch.uint8)
        values = payload[:num_values].to(self.dtype).view(torch.uint8)
        return torch.cat((values, payload[num_values : 2 * num_values].view(torch.uint8)))

    def unpack(self, packed: Tensor, payload: Tensor, num_values: int | None = None) -> None:
        """Write what `pack` returned back.

        Args:
            packed: The bytes.
            payload: [P] of float32, overwritten; of a sparse one the first 2 K elements.
            num_values: K of a sparse one.
        """
        if num_values is None:
            payload.copy_(packed.view(self.dtype))
            return
        cut = num_values * self.dtype.itemsize
        payload[:num_values].copy_(packed[:cut].view(self.dtype))
        places = payload[num_values : 2 * num_values].view(torch.int32)
        places.copy_(packed[cut:].clone().view(torch.int32))


EXACT = Wire("fp32")


def blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut vectors [P] into parts of which several fit a CPU's cache; on a GPU they stay whole."""
    first = vectors[0]
    block = _BLOCK if first.device.type == "cpu" else max(first.numel(), 1)
    return zip(*(torch.split(vector, block) for vector in vectors), strict=True)
