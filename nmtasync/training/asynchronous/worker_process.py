"""The process of one worker: it computes what the main process hands it, until that is gone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from nmtasync.config.schema import Config
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.machine.device import allow_tf32
from nmtasync.machine.processes import serving
from nmtasync.models.build import ModelSpec
from nmtasync.run_directory import RunDirectory
from nmtasync.server.transport import Slot
from nmtasync.worker.worker import Worker


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker process needs to know at its start.

    Attributes:
        index: Which worker it is.
        device: Where it computes.
        threads: How many CPU threads it may use.
        run: Whose data it reads.
        config: The experiment.
        spec: The network.
        slots: The memory that it shares with the server, for each window under way.
        sequence: The last push that the server took from this worker's predecessor.
        batches: The batches that its predecessors have computed.
    """

    index: int
    device: str
    threads: int
    run: RunDirectory
    config: Config
    spec: ModelSpec
    slots: list[Slot]
    sequence: int
    batches: int


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
class WriteBack:
    """The worker has made a local step, and waits until its shard has what came of it."""


@dataclass(frozen=True)
class WrittenBack:
    """Answer to `WriteBack`."""


def run_worker(setup: WorkerSetup, connection: Connection) -> None:
    """Serve as a worker until the main process closes the connection.

    Args:
        setup: Who and what.
        connection: Carries `Ready`, `ComputedWindow`, `WriteBack` and `Failure` to the main
            process, `Task` and `WrittenBack` from it.
    """
    with serving(connection):
        torch.set_num_threads(setup.threads)
        torch.get_device_module(setup.device).set_device(setup.device)
        worker = _build(setup, connection)
        setup.slots[0].complete()  # or the server's first copy could be overwritten
        connection.send(Ready())
        while True:
            idle_since = time.perf_counter()
            task: Task = connection.recv()
            idle_seconds = time.perf_counter() - idle_since
            slot = setup.slots[task.slot]
            slot.use(worker.flat)
            worker.versions = task.versions
            computed = worker.compute(task.window, task.slot)
            slot.complete()
            if setup.config.asynchronous.overlap:
                computed.figures.idle_seconds = idle_seconds
            connection.send(computed)


def _build(setup: WorkerSetup, connection: Connection) -> Worker:
    def write_back() -> None:
        setup.slots[0].complete()
        connection.send(WriteBack())
        assert isinstance(connection.recv(), WrittenBack)

    allow_tf32(setup.device, setup.config.training.tf32)
    return Worker(
        setup.index,
        setup.slots[0].replica(setup.spec.build()),
        ParallelShards.open(setup.run.data / "train"),
        setup.config,
        setup.sequence,
        setup.batches,
        write_back if setup.config.asynchronous.local_write_back else None,
    )
