"""The devices of a host besides the first, as the worker of the host sees them.

Each has a process, which computes a batch while the others compute theirs, on the same parameters.
On CPUs these are the worker's own, in shared memory, so that nothing is copied, not even after a
local step; on GPUs each has a copy. Its gradient comes in a mailbox of its own. The worker adds
these up, always in the same order, so that the sum is the one of a single device.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtasync.data.cursor import AssignedBatch
from nmtasync.errors import NmtasyncError
from nmtasync.machine.processes import Child, ChildEndedError
from nmtasync.server.transport import Slot, shared_vector
from nmtasync.training.asynchronous.worker_process import Ready
from nmtasync.training.cluster.member_process import (
    MemberDone,
    MemberSetup,
    MemberTask,
    run_member,
)
from nmtasync.training.driver import RunParts
from nmtasync.worker.gradient import BatchFigures


@dataclass(frozen=True)
class _Member:
    """A device: its process, and its memory for each slot of the worker."""

    child: Child
    slots: list[Slot]


class Members:
    """The other devices of a host: `OtherDevices`.

    Args:
        parts: Of the run.
        slots: The worker's; on CPUs their landing buffers are shared memory.
        num_devices: How many the host has, the worker's included.

    Raises:
        NmtasyncError: One of the processes has failed, or ended.
    """

    def __init__(self, parts: RunParts, slots: list[Slot], num_devices: int) -> None:
        self.own = slots
        self._slot = 0
        self._begun: list[_Member] = []
        self.members = [_start(parts, slots, number) for number in range(1, num_devices)]
        for member in self.members:
            assert isinstance(_receive(member), Ready)

    def hand_out(self, slot: int) -> None:
        """Let them compute on what the worker has in the slot; on GPUs, on copies of that."""
        self._slot = slot
        for member in self.members:
            landing = member.slots[slot].landing
            if landing is not self.own[slot].landing:
                landing.copy_(self.own[slot].landing)

    def begin(self, batches: Sequence[AssignedBatch], scale: Mapping[str, int]) -> None:
        """Let each begin a batch, as far as there are some; `scale` is that of the loss.

        Raises:
            NmtasyncError: One of the processes has ended.
        """
        for slots in (self.own, *(member.slots for member in self.members)):
            slots[self._slot].complete()  # no copy of parameters or gradients is under way any more
        self._begun = self.members[: len(batches)]
        for member, batch in zip(self._begun, batches, strict=True):
            try:
                member.child.send(MemberTask(batch, self._slot, scale))
            except ChildEndedError:
                raise _lost(member.child) from None

    def finish(self, gradients: Tensor) -> tuple[list[BatchFigures], int]:
        """Wait for what was begun, and add it to the gradients [P] in the order of the batches.

        Returns:
            The figures of the batches, and how many of them were computed in parts.

        Raises:
            NmtasyncError: One of the processes has failed, or ended.
        """
        figures, num_split = [], 0
        for member in self._begun:
            done = _receive(member)
            assert isinstance(done, MemberDone)
            gradients.add_(member.slots[self._slot].mailbox.to(gradients.device))
            loss = torch.tensor(done.cross_entropy, dtype=done.dtype, device=gradients.device)
            counts = done.target_words, done.source_words, done.padding
            figures.append(BatchFigures(loss, *counts))
            num_split += done.num_split
        return figures, num_split


def _start(parts: RunParts, own: list[Slot], number: int) -> _Member:
    """Start the process of a device, the first after the worker's being number 1."""
    size, device = parts.layout.size, "cpu"
    if own[0].landing.device.type == "cpu":
        mailbox = shared_vector(size)
        slots = [Slot(mailbox, slot.landing) for slot in own]
    else:
        device = f"cuda:{number}"
        slots = [Slot.allocate(size, device)] * len(own)
    return _Member(Child(run_member, MemberSetup(parts, device, slots), f"device {number}"), slots)


def _receive(member: _Member) -> Any:
    try:
        return member.child.receive()
    except ChildEndedError:
        raise _lost(member.child) from None


def _lost(child: Child) -> NmtasyncError:
    """Tell how a process has ended, after all that it has left."""
    child.process.join()
    words = child.last_words.strip().splitlines()
    what = f"failed: {words[-1]}" if words else child.end_of_process()
    return NmtasyncError("\n".join(filter(None, (child.last_output(), f"its {child.name} {what}"))))
