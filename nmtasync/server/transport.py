"""How a worker in another process reaches the server: a mailbox, a landing buffer, and a pipe.

The payloads lie in shared memory, and no one copies them on the way: on a CPU the worker gathers
its gradient in the mailbox itself and computes with the parameters where the server has put them.
The pipe carries headers only. A header is sent when its payload is whole, so a worker that dies
in between has sent nothing.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.errors import NmtasyncError
from nmtasync.optim.flat import FlatModel, ModelT

_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Slot:
    """The shared memory between one worker and the server, for one window at a time.

    Attributes:
        mailbox: [P], written by the worker: the payload of its push.
        landing: [P], written by the server: the parameters that the worker fetches.
    """

    mailbox: Tensor
    landing: Tensor

    @classmethod
    def allocate(cls, size: int) -> Slot:
        """Allocate a slot for vectors of `size` elements."""
        return cls(shared_vector(size), shared_vector(size))

    def replica(self, model: ModelT, device: str) -> FlatModel[ModelT]:
        """Lay a worker's model out: in the slot itself on a CPU, else on the device."""
        if device == "cpu":
            return FlatModel(model, self.landing, self.mailbox)
        return FlatModel(model.to(device))

    def send_payload(self, flat: FlatModel[ModelT]) -> None:
        """Put the gradient into the mailbox, where it is not there already."""
        if flat.gradients is not self.mailbox:
            self.mailbox.copy_(flat.gradients)

    def receive_payload(self, flat: FlatModel[ModelT]) -> None:
        """Take the parameters from the landing buffer, or compute with them in place."""
        if flat.parameters.device != self.landing.device:
            flat.parameters.copy_(self.landing)
        elif flat.parameters is not self.landing:
            flat.bind(self.landing, self.mailbox)


def shared_vector(size: int) -> Tensor:
    """Allocate a float32 vector that other processes can be handed.

    Raises:
        NmtasyncError: The shared memory of this machine or container is too small.
    """
    return share(torch.zeros(size))


def share(vector: Tensor) -> Tensor:
    """Move a vector of this process into shared memory; views of it move along.

    Returns:
        The vector itself.

    Raises:
        NmtasyncError: The shared memory of this machine or container is too small.
    """
    num_bytes = vector.numel() * vector.element_size()
    if os.path.isdir(_SHARED_MEMORY):  # noqa: PTH112
        free = os.statvfs(_SHARED_MEMORY)
        if free.f_bavail * free.f_frsize < num_bytes:
            raise NmtasyncError(
                f"shared memory is too small: {num_bytes / 2**20:.0f} MiB more are needed",
                where=_SHARED_MEMORY,
                remedy="enlarge it (docker run --shm-size) or use fewer workers",
            )
    try:
        vector.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise NmtasyncError("shared memory is full", where=_SHARED_MEMORY) from None
    return vector
