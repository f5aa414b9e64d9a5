"""A vector of the server's state in pieces, one for each shard, wherever they lie.

With several workers on GPUs, shard i lies, with its optimizer's state, on GPU i modulo their
number, in memory of its own; elsewhere the shards are slices of one vector. Pieces with memory of
their own are tested on CPUs, too.

Shapes: P is the length of the parameter vector, n that of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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

    def copy_to(self, target: Tensor, shards: Sequence[int] | None = None) -> None:
        """Copy the vector, or some pieces, to their places in `target` [P].

        From GPUs, the copies may still be under way then.
        """
        for shard in range(len(self.pieces)) if shards is None else shards:
            piece = self.pieces[shard]
            target[self._bounds[shard]].copy_(piece, non_blocking=self._whole is None)

    def copy_from(self, source: Tensor) -> None:
        """Copy `source` [P] here; to GPUs, the copies may still be under way then."""
        for place, piece in zip(self._bounds, self.pieces, strict=True):
            piece.copy_(source[place], non_blocking=self._whole is None)
