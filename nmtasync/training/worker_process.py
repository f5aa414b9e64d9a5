"""The process of one worker: it computes what the main process hands it, until that is gone."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from nmtasync.config.schema import Config
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.run_directory import RunDirectory
from nmtasync.server.transport import Slot
from nmtasync.training.cursor import AssignedBatch
from nmtasync.training.device import allow_tf32
from nmtasync.training.signals import leave_signals_to_main
from nmtasync.training.worker import Worker


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker process needs to know at its start.

    Attributes:
        index: Which worker it is.
        device: Where it computes.
        threads: How many CPU threads it may use.
        run: Whose data it reads.
        config: The experiment.
        vocabulary_sizes: Of source and target.
        slot: The memory that it shares with the server.
        sequence: The last push that the server took from this worker's predecessor.
        batches: The batches that its predecessors have computed.
    """

    index: int
    device: str
    threads: int
    run: RunDirectory
    config: Config
    vocabulary_sizes: tuple[int, int]
    slot: Slot
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
    """

    window: list[AssignedBatch]
    versions: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """The worker ends because of an error.

    Attributes:
        text: The traceback.
    """

    text: str


def run_worker(setup: WorkerSetup, connection: Connection) -> None:
    """Serve as a worker until the main process closes the connection.

    Args:
        setup: Who and what.
        connection: Carries `Ready`, `Push` and `Failure` to the main process, `Task` from it.
    """
    leave_signals_to_main()
    torch.set_num_threads(setup.threads)
    try:
        worker = _build(setup)
        connection.send(Ready())
        while True:
            task: Task = connection.recv()
            setup.slot.receive_payload(worker.flat)
            worker.versions = task.versions
            push = worker.compute(task.window)
            setup.slot.send_payload(worker.flat)
            connection.send(push)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        connection.send(Failure(traceback.format_exc()))


def _build(setup: WorkerSetup) -> Worker:
    allow_tf32(setup.device, setup.config.training.tf32)
    model = build_model(setup.config.model, *setup.vocabulary_sizes)
    return Worker(
        setup.index,
        setup.slot.replica(model, setup.device),
        ParallelShards.open(setup.run.data / "train"),
        setup.config,
        setup.sequence,
        setup.batches,
    )
