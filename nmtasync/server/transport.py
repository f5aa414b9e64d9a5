"""How a worker in another process reaches the server: a mailbox, a landing buffer, and a pipe.

The payloads lie in memory that both processes see, and no one copies them on the way: the worker
gathers its gradient in the mailbox itself and computes with the parameters where the server has
put them. On a CPU that is shared memory. On a GPU it is the server's memory there, which the
worker's process is handed once, at its start, by CUDA IPC; the server keeps it for as long as the
worker and its replacements live. The pipe carries headers only. A header is sent when its payload
is whole, so a worker that dies in between has sent nothing.

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
_HOST_REGISTER_PORTABLE = 1  # cudaHostRegisterPortable


@dataclass(frozen=True)
class Slot:
    """The memory between one worker and the server, for one window at a time.

    Attributes:
        mailbox: [P], written by the worker: the payload of its push.
        landing: [P], written by the server: the parameters that the worker fetches.
    """

    mailbox: Tensor
    landing: Tensor

    @classmethod
    def private(cls, size: int, device: str) -> Slot:
        """Allocate a slot that only this process sees, for vectors of `size` elements."""
        return cls(torch.zeros(size, device=device), torch.zeros(size, device=device))

    @classmethod
    def allocate(cls, size: int, device: str) -> Slot:
        """Allocate a slot on a worker's device, for vectors of `size` elements.

        Raises:
            NmtasyncError: There is not enough memory.
        """
        if device == "cpu":
            return cls(shared_vector(size), shared_vector(size))
        try:
            return cls.private(size, device)
        except torch.OutOfMemoryError:
            raise NmtasyncError(
                f"has too little memory: {2 * 4 * size / 2**20:.0f} MiB are needed for each worker",
                where=device,
                remedy="end what else runs there, use fewer workers or a smaller model",
            ) from None

    def replica(self, model: ModelT) -> FlatModel[ModelT]:
        """Lay a worker's model out in the slot itself."""
        return FlatModel(model.to(self.landing.device), self.landing, self.mailbox)

    def use(self, flat: FlatModel[ModelT]) -> None:
        """Bind a worker's model to this slot, unless it computes there already."""
        if flat.parameters is not self.landing:
            flat.bind(self.landing, self.mailbox)

    def complete(self) -> None:
        """Wait until the device has done all that this process has told it to do in the slot."""
        device = self.mailbox.device
        torch.get_device_module(device).synchronize(device)


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
    if os.path.isdir(_SHARED_MEMORY):  # noqa: PTH112
        free = os.statvfs(_SHARED_MEMORY)
        if free.f_bavail * free.f_frsize < vector.nbytes:
            raise NmtasyncError(
                f"shared memory is too small: {vector.nbytes / 2**20:.0f} MiB more are needed",
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


def page_lock(vector: Tensor, device: str) -> None:
    """Keep a vector in host memory in its place, so that GPUs copy to it directly.

    It is for this process that the memory is locked; others may share it as before.

    Args:
        vector: For as long as this process lives.
        device: A GPU that this process uses; the memory is locked for all of them.
    """
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):  # or a context would be made on the first GPU
        error = runtime.cudaHostRegister(vector.data_ptr(), vector.nbytes, _HOST_REGISTER_PORTABLE)
    torch.cuda.check_error(error)
