"""The server's state: vectors in pieces, one for each shard, wherever they lie.

With several workers on GPUs, shard i lies, with its optimizer's state, on GPU i modulo their
number, in memory of its own; elsewhere the shards are slices of one vector. Pieces with memory of
their own are tested on CPUs, too.

Shapes: P is the length of the parameter vector, n that of a shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nmtasync.server.wire import EXACT, Wire


class ShardedVector:
    """A vector [P] that is read and written as a whole here, and by pieces by the shards.

    Args:
        vector: [P], its content.
        bounds: Those of the shards; together they are the whole.
        devices: Where each piece shall lie, in memory of its own. None: pieces are slices of
            `vector`, in which the server then goes on.

    Attributes:
        pieces: [n] for each shard.
    """

    def __init__(
        self, vector: Tensor, bounds: Sequence[slice], devices: Sequence[str] | None
    ) -> None:
        self._bounds = bounds
        self._whole = vector if devices is None else None
        self.pieces = [vector[place] for place in bounds]
        if devices is not None:
            pieces = zip(self.pieces, devices, strict=True)
            self.pieces = [piece.to(device, copy=True) for piece, device in pieces]

    def gather(self) -> Tensor:
        """Return the vector [P] itself, or a copy on the first shard's device if it is in parts."""
        if self._whole is not None:
            return self._whole
        device = self.pieces[0].device
        return torch.cat([piece.to(device) for piece in self.pieces])

    def copy_to(
        self, target: Tensor, shards: Sequence[int] | None = None, wire: Wire = EXACT
    ) -> None:
        """Copy the vector, or some pieces, to their places in `target` [P].

        From GPUs, the copies may still be under way then.

        Args:
            target: Overwritten there.
            shards: Whose pieces; None for all.
            wire: What they are rounded by.
        """
        for shard in range(len(self.pieces)) if shards is None else shards:
            place, piece = target[self._bounds[shard]], self.pieces[shard]
            wire.copy(place, piece, non_blocking=self._whole is None)

    def copy_from(self, source: Tensor) -> None:
        """Copy `source` [P] here; to GPUs, the copies may still be under way then."""
        for place, piece in zip(self._bounds, self.pieces, strict=True):
            piece.copy_(source[place], non_blocking=self._whole is None)


class ShardedState:
    """The vectors of the server by name; more are added when they are first asked for.

    Args:
        parameters: [P], the first of them, "parameters".
        bounds: Those of the shards.
        devices: Where the piece of each shard shall lie, as of `ShardedVector`.
    """

    def __init__(
        self, parameters: Tensor, bounds: Sequence[slice], devices: Sequence[str] | None
    ) -> None:
        self._bounds, self._devices = bounds, devices
        self._size, self._device = parameters.numel(), parameters.device
        self.vectors = {"parameters": ShardedVector(parameters, bounds, devices)}

    def piece(self, shard: int, name: str) -> Tensor:
        """Return a shard's piece [n] of a vector, which is added, of zeros, if it is not there."""
        if name not in self.vectors:
            zeros = torch.zeros(self._size, device=self._device)
            self.vectors[name] = ShardedVector(zeros, self._bounds, self._devices)
        return self.vectors[name].pieces[shard]

    def room(self, shard: int) -> Tensor:
        """Return memory [n] like a shard's that is no part of the state."""
        return torch.empty_like(self.vectors["parameters"].pieces[shard])

    def gather(self) -> dict[str, Tensor]:
        """Return all of them [P] by name; copies if shards lie apart."""
        return {name: vector.gather() for name, vector in self.vectors.items()}

    def copy_to(self, targets: Mapping[str, Tensor]) -> None:
        """Copy each to the target [P] of its name."""
        for name, vector in self.vectors.items():
            vector.copy_to(targets[name])

    def copy_from(self, sources: Mapping[str, Tensor]) -> None:
        """Copy to each the source [P] of its name; an average without one begins anew."""
        for name, vector in self.vectors.items():
            if name in sources:
                vector.copy_from(sources[name])
            elif name == "average":
                vector.copy_from(sources["parameters"])
