"""A worker's own shards, and how it reaches them in the middle of a window.

They lie on the worker's device, so that nothing travels.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.clipping import clip_factor
from nmtasync.optim.flat import FlatModel, shard_bounds
from nmtasync.server.messages import Push
from nmtasync.server.ownership import foreign_shards, own_shards
from nmtasync.worker.gradient import OtherDevices


class ShardAccess(Protocol):
    """The way from a worker to its own shards; both calls return when the shards have answered."""

    def push(self, push: Push, number: int) -> tuple[int, ...]:
        """Have a batch's gradient applied to the worker's own shards.

        Its payload is where that of a window's push will be, and the fresh parameters of these
        shards are put where the worker has fetched.

        Args:
            push: The header, with the shards that it is for.
            number: Which batch of the window it is of, from 0 on.

        Returns:
            The versions of all shards; those of its own are what the worker now has.
        """
        ...

    def write_back(self, number: int, progress: float) -> None:
        """Have the worker's replica written over its own shards.

        Args:
            number: After the local step of which batch of the window, from 0 on.
            progress: The share of the training that was over when the window was drawn.
        """
        ...


@dataclass(frozen=True)
class WorkerPlace:
    """Who a worker is, and how it reaches its own shards.

    Attributes:
        index: Which worker it is, from 0 on.
        num_workers: How many there are.
        num_shards: How many shards there are.
        access: To its own shards; None where they need no more than its pushes.
        num_devices: How many devices compute for it; its local steps are of a batch of each.
        others: Those of them that have a process of their own; None where one computes for all.
    """

    index: int
    num_workers: int = 1
    num_shards: int = 1
    access: ShardAccess | None = None
    num_devices: int = 1
    others: OtherDevices | None = None


class OwnShards:
    """Has each batch's gradient applied to a worker's own shards at once.

    Args:
        place: Which worker it is.
        flat: Its replica; the gradients of the window are gathered in `flat.gradients`.
        clip_norm: What the batch's gradient is clipped to, per target word, if it is.

    Attributes:
        indices: Which shards they are.
        others: Those that the push of a window is for.
    """

    def __init__(
        self, place: WorkerPlace, flat: FlatModel[SequenceToSequence], clip_norm: float | None
    ) -> None:
        assert place.access is not None
        self.access = place.access
        self.flat = flat
        self.clip_norm = clip_norm
        self.indices = own_shards(place.index, place.num_workers, place.num_shards)
        self.others = foreign_shards(place.index, place.num_workers, place.num_shards)
        bounds = shard_bounds(flat.size, place.num_shards)
        self._places = [bounds[shard] for shard in self.indices]

    def load(self, gradient: Tensor, target_words: int) -> float:
        """Leave the own slices of a batch's gradient [P], clipped, in those of the window's.

        Returns:
            The norm of the batch's gradient per target word.
        """
        norm = float(gradient.norm()) / target_words
        factor = clip_factor(norm, self.clip_norm)
        for place in self._places:
            torch.mul(gradient[place], factor, out=self.flat.gradients[place])
        return norm

    def exchange(self, push: Push, number: int, versions: tuple[int, ...]) -> tuple[int, ...]:
        """Push what was loaded; arguments and result as of `ShardAccess.push`.

        Args:
            push: The header.
            number: Which batch of the window it is of.
            versions: Those that the worker has.
        """
        fresh = self.access.push(push, number)
        for place in self._places:
            self.flat.gradients[place].zero_()  # no part of the window's push
        return tuple(
            fresh[shard] if shard in self.indices else old for shard, old in enumerate(versions)
        )
