"""The process of a device that is not its host's first: it computes a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.machine.processes import serving
from nmtasync.server.transport import Slot
from nmtasync.training.asynchronous.worker_process import Ready, prepare_process
from nmtasync.training.driver import RunParts
from nmtasync.worker.gradient import WindowGradient


@dataclass(frozen=True)
class MemberSetup:
    """What the process needs to know at its start.

    Attributes:
        parts: Of the run.
        device: Where it computes.
        slots: For each slot of the worker where the parameters are, and the mailbox for gradients.
    """

    parts: RunParts
    device: str
    slots: list[Slot]


@dataclass(frozen=True)
class MemberTask:
    """A batch to compute.

    Attributes:
        batch: Which.
        slot: Where the parameters are.
        scale: Numbers of the worker's scale of the loss, if it has one.
    """

    batch: AssignedBatch
    slot: int
    scale: Mapping[str, int]


@dataclass(frozen=True)
class MemberDone:
    """The gradient of a batch is in the mailbox; its figures, as of `BatchFigures`.

    Attributes:
        cross_entropy: Exactly that of `BatchFigures`, which has the type `dtype`.
        dtype: See there.
        target_words: See `BatchFigures`.
        source_words: Likewise.
        padding: Likewise.
        num_split: 1 if it was computed in parts, else 0.
    """

    cross_entropy: float
    dtype: torch.dtype
    target_words: int
    source_words: int
    padding: int
    num_split: int


def run_member(setup: MemberSetup, connection: Connection) -> None:
    """Serve as a device until the worker of the host is gone.

    Args:
        setup: Who and what.
        connection: Carries `Ready`, `MemberDone` and `Failure` to the worker, `MemberTask` from it.
    """
    with serving(connection):
        parts = setup.parts
        prepare_process(parts, setup.device)
        flat = setup.slots[0].replica(parts.spec.build())
        corpus = open_training_corpus(parts.run, parts.config)
        gradient = WindowGradient(flat, corpus, parts.config)
        setup.slots[0].complete()  # or the first parameters could be overwritten
        connection.send(Ready())
        while True:
            task: MemberTask = connection.recv()
            connection.send(_compute(gradient, task, setup.slots[task.slot]))


def _compute(gradient: WindowGradient, task: MemberTask, slot: Slot) -> MemberDone:
    slot.use(gradient.flat)
    if gradient.scale is not None:
        gradient.scale.restore(dict(task.scale))
    gradient.begin_sum()
    figures = gradient.add_assigned(task.batch)
    slot.complete()
    loss = figures.cross_entropy
    counts = figures.target_words, figures.source_words, figures.padding
    return MemberDone(float(loss), loss.dtype, *counts, gradient.take_num_split())
