"""The process of one worker: it computes what the main process hands it, until that is gone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.machine.device import allow_tf32
from nmtasync.machine.processes import serving
from nmtasync.server.messages import Push
from nmtasync.server.transport import Slot
from nmtasync.training.driver import RunParts
from nmtasync.worker.gradient import OtherDevices
from nmtasync.worker.own_shards import ShardAccess, WorkerPlace
from nmtasync.worker.window import ComputedWindow
from nmtasync.worker.worker import Worker


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker process needs to know at its start.

    Attributes:
        index: Which worker it is.
        parts: Of the run.
        slots: The memory that it shares with the server, for each window under way.
        sequence: The last push that the server took from this worker's predecessor.
        batches: The batches that its predecessors have computed.
        num_shards: How many shards the server has.
    """

    index: int
    parts: RunParts
    slots: list[Slot]
    sequence: int
    batches: int
    num_shards: int


@dataclass(frozen=True)
class Ready:
    """The worker has started and waits for its first task."""


@dataclass(frozen=True)
class Task:
    """What to compute next.

    Attributes:
        window: The batches of the next push.
        versions: Of the parameters in the landing buffer.
        slot: Which of the worker's slots has them, and takes the push.
    """

    window: list[AssignedBatch]
    versions: tuple[int, ...]
    slot: int = 0


@dataclass(frozen=True)
class OwnPush:
    """The worker waits until its own shards have taken a batch's gradient.

    Attributes:
        push: The header.
        number: Which batch of the window it is of.
    """

    push: Push
    number: int


@dataclass(frozen=True)
class WriteBack:
    """The worker has made a local step, and waits until its own shards have what came of it.

    Attributes:
        number: Of which batch of the window.
        progress: The share of the training that was over when the window was drawn.
    """

    number: int
    progress: float


@dataclass(frozen=True)
class Done:
    """Answer to `OwnPush` and `WriteBack`.

    Attributes:
        versions: Of all shards.
    """

    versions: tuple[int, ...]


class _PipedAccess:
    """A worker's way to its own shards through the pipe: a `ShardAccess`."""

    def __init__(self, slot: Slot, connection: Connection) -> None:
        self.slot, self.connection = slot, connection

    def push(self, push: Push, number: int) -> tuple[int, ...]:
        """Have it exchanged between the mailbox and the landing buffer."""
        return self._ask(OwnPush(push, number))

    def write_back(self, number: int, progress: float) -> None:
        """Have what is in the landing buffer written back."""
        self._ask(WriteBack(number, progress))

    def _ask(self, message: OwnPush | WriteBack) -> tuple[int, ...]:
        self.slot.complete()
        self.connection.send(message)
        answer = self.connection.recv()
        assert isinstance(answer, Done)
        return answer.versions


def run_worker(setup: WorkerSetup, connection: Connection) -> None:
    """Serve as a worker until the main process closes the connection.

    Args:
        setup: Who and what.
        connection: Carries `Ready`, `ComputedWindow`, `OwnPush`, `WriteBack` and `Failure` to the
            main process, `Task` and `Done` from it.
    """
    with serving(connection):
        slot = setup.slots[0]
        worker = build_worker(setup, _PipedAccess(slot, connection))
        slot.complete()  # or the server's first copy could be overwritten
        connection.send(Ready())
        while True:
            idle_since = time.perf_counter()
            task: Task = connection.recv()
            connection.send(compute(worker, task, setup.slots[task.slot], idle_since))


def build_worker(
    setup: WorkerSetup, access: ShardAccess | None, others: OtherDevices | None = None
) -> Worker:
    """Build the worker that this process is, and prepare the process for it.

    Args:
        setup: Who and what; its replica lies in the first slot.
        access: To its own shards, if it has a way there.
        others: Devices of its host that compute with it.
    """
    parts, index = setup.parts, setup.index
    prepare_process(parts, parts.devices[index])
    num_devices = parts.num_devices[index]
    return Worker(
        WorkerPlace(index, len(parts.devices), setup.num_shards, access, num_devices, others),
        setup.slots[0].replica(parts.spec.build()),
        open_training_corpus(parts.run, parts.config),
        parts.config,
        setup.sequence,
        setup.batches,
    )


def prepare_process(parts: RunParts, device: str) -> None:
    """Let this process compute on a device, as the run wants it to."""
    torch.set_num_threads(parts.threads)
    torch.get_device_module(device).set_device(device)
    allow_tf32(device, parts.config.training.tf32)


def compute(worker: Worker, task: Task, slot: Slot, idle_since: float) -> ComputedWindow:
    """Compute a task in its slot, where the parameters are; the payload is in the mailbox then.

    Args:
        worker: Who computes it.
        task: What to compute.
        slot: Of the task.
        idle_since: Since when the worker has had nothing to do, by `time.perf_counter`.
    """
    idle_seconds = time.perf_counter() - idle_since
    slot.use(worker.flat)
    worker.versions = task.versions
    computed = worker.compute(task.window, task.slot)
    slot.complete()
    computed.figures.idle_seconds = idle_seconds
    return computed
