"""How the ranks of synchronous training add up their gradients and share their parameters.

Each rank owns one shard of the vector. A round is three meetings of all ranks: their gradients
are summed, each rank getting its shard of the sum; a few figures are exchanged; and, when each
has updated its shard, the parameters are shared. On GPUs all three are NCCL's. On CPUs the ranks
are processes of one machine: the vectors lie in shared memory, where a sum is read and written
once and parameters need no sending, and Gloo keeps the ranks in step.

Shapes: P is the length of the vector, N the number of ranks, n the length of a rank's shard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nmtasync.optim.flat import SHARD_ALIGNMENT


def rank_bounds(size: int, num_ranks: int) -> list[slice]:
    """Cut a vector into one shard for each rank, of equal length but for the end of the vector.

    A vector that is shorter than `num_ranks` aligned blocks leaves the last shards empty.
    """
    length = rank_length(size, num_ranks)
    edges = [min(rank * length, size) for rank in range(num_ranks + 1)]
    return [slice(edges[rank], edges[rank + 1]) for rank in range(num_ranks)]


def rank_length(size: int, num_ranks: int) -> int:
    """Return the length of a shard, before it is cut off at the end of the vector."""
    blocks = -(-size // SHARD_ALIGNMENT)
    return -(-blocks // num_ranks) * SHARD_ALIGNMENT


class Collective(ABC):
    """The meetings of a round, as one rank takes part in them. All ranks must call each in turn.

    Attributes:
        gradients: [P], the rank's own.
        parameters: [P], what it computes with.
    """

    gradients: Tensor
    parameters: Tensor

    @abstractmethod
    def sum_gradients(self) -> Tensor:
        """Sum the gradients of all ranks; return the rank's shard [n], which it may overwrite."""

    def gather(self, figures: Tensor) -> Tensor:
        """Exchange figures [k] in float64; return those of all ranks [N, k], on the CPU.

        After it every rank has its shard of the sum. A device and the host wait for each other.
        """
        rows = [torch.empty_like(figures) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, figures)
        return torch.stack(rows).cpu()

    @abstractmethod
    def share_parameters(self) -> None:
        """Let `parameters` of every rank have what each owner made of its shard."""


class SharedMemoryCollective(Collective):
    """The collective of CPU processes on one machine.

    The sum is taken in the order of the ranks, so it does not depend on who computes it.

    Args:
        rank: Which rank this is.
        gradients: [P] of each rank, all in shared memory.
        parameters: [P], in shared memory: the ones that all ranks compute with.
    """

    def __init__(self, rank: int, gradients: list[Tensor], parameters: Tensor) -> None:
        self.gradients = gradients[rank]
        self.parameters = parameters
        bounds = rank_bounds(parameters.numel(), len(gradients))[rank]
        self._shards = [gradient[bounds] for gradient in gradients]

    def sum_gradients(self) -> Tensor:
        """Wait for all gradients, then sum the shard in the first rank's vector."""
        dist.barrier()
        total, *others = self._shards  # nobody else reads or writes this shard
        for other in others:
            total.add_(other)
        return total

    def share_parameters(self) -> None:
        """Wait until all owners have updated what everybody reads."""
        dist.barrier()


# their names since PyTorch 2.13, and before
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
_all_gather: Any = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


class GroupCollective(Collective):
    """The collective of a process group, for GPUs: reduce-scatter and all-gather.

    Args:
        rank: Which rank this is.
        num_ranks: How many there are.
        size: P.
        device: Where the vectors shall lie.
    """

    def __init__(self, rank: int, num_ranks: int, size: int, device: str) -> None:
        length = rank_length(size, num_ranks)
        own = rank_bounds(size, num_ranks)[rank]
        # shards of one length for the process group; what is beyond the vector stays zero
        self._gradients = torch.zeros(length * num_ranks, device=device)
        self._parameters = torch.zeros(length * num_ranks, device=device)
        self._sum = torch.zeros(length, device=device)
        self._own_parameters = self._parameters[rank * length : (rank + 1) * length]
        self._own_length = own.stop - own.start
        self.gradients, self.parameters = self._gradients[:size], self._parameters[:size]

    def sum_gradients(self) -> Tensor:
        """Reduce-scatter."""
        _reduce_scatter(self._sum, self._gradients)
        return self._sum[: self._own_length]

    def share_parameters(self) -> None:
        """All-gather, in place."""
        _all_gather(self._parameters, self._own_parameters)
