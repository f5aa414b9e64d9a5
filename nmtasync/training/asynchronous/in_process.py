"""What the drivers share that run their workers, save and validate in this process.

No server process is needed: workers and the server take turns.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtasync.checkpoints.state import TrainingState
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.server.messages import Push
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.saver import InProcessSaver
from nmtasync.untrusted import Measured, Positive, typed
from nmtasync.worker.gradient import BatchFigures
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import OpenWindow, Worker


class _DirectAccess:
    """A worker's way to its own shards where the server is in this process: a `ShardAccess`."""

    def __init__(self, session: Session, index: int, flat: FlatModel[SequenceToSequence]) -> None:
        self.session, self.index, self.flat = session, index, flat

    def push(self, push: Push, number: int) -> tuple[int, ...]:
        """Have the session exchange it, between the vectors of the worker's model."""
        flat = self.flat
        return self.session.exchange_own(push, flat.gradients, flat.parameters, number).versions

    def write_back(self, number: int, progress: float) -> None:
        """Have the session write the worker's parameters back."""
        self.session.exchanges.write_back(self.index, self.flat.parameters, number, progress)


@dataclass
class Fetched:
    """What a worker has been handed for one of its slots.

    Attributes:
        parameters: [P].
        versions: Of each shard; none before the first fetch.
    """

    parameters: Tensor
    versions: tuple[int, ...] = ()


def replica_name(worker: int, slot: int) -> str:
    """Under which name a checkpoint keeps what a worker has fetched for a slot."""
    return f"replica.{worker}.{slot}"


def as_versions(saved: int | Sequence[int], num_shards: int) -> tuple[int, ...]:
    """Read the versions of what a worker had fetched, for as many shards as there are now.

    Args:
        saved: Of each shard then, or of all.
        num_shards: How many there are now.

    Raises:
        ValueError: They are no versions.
    """
    versions = typed(tuple[int, ...], [saved] if isinstance(saved, int) else saved, "versions")
    if not versions:
        raise ValueError("versions can't be empty")
    return versions if len(versions) == num_shards else (max(versions),) * num_shards


class InProcessDriver(ABC):
    """Workers that take turns on one device, each with a replica of its own for each slot.

    All share one gradient buffer. A push is computed only when it is due; the gradient is the same
    as if computed earlier, because only the worker changes its replica. Where single batches of a
    worker change shards, they are computed when they are due, and each worker has a buffer.

    Args:
        session: The run.
        num_workers: How many there are.

    Attributes:
        by_batch: Whether single batches change shards.
    """

    def __init__(self, session: Session, num_workers: int) -> None:
        self.session, parts = session, session.parts
        self.corpus = open_training_corpus(session.run, session.config)
        self.begin_anew = set(range(num_workers))  # workers whose local optimizer begins anew
        self.workers: list[Worker] = []
        self.by_batch = (
            session.config.asynchronous.own_shard == "batch"
            or session.config.asynchronous.local_write_back
        )
        for index in range(num_workers):
            shared = self.workers and not self.by_batch
            gradients = self.workers[0].flat.gradients if shared else None
            model = parts.spec.build().to(parts.devices[0])
            self.workers.append(self._new_worker(index, FlatModel(model, gradients=gradients)))
        self.num_slots = session.config.asynchronous.num_slots
        self.fetched = [self._empty_slots(worker.flat.parameters) for worker in self.workers]
        self.saver = InProcessSaver(session, self.workers[0].flat)

    def _new_worker(
        self, index: int, flat: FlatModel[SequenceToSequence], batches: int = 0
    ) -> Worker:
        session, server = self.session, self.session.server
        access = _DirectAccess(session, index, flat)
        num_devices = self.num_devices(index)
        place = WorkerPlace(index, server.num_workers, len(server.shards), access, num_devices)
        sequence = server.last_sequences.get(index, 0)
        return Worker(place, flat, self.corpus, session.config, sequence, batches)

    def num_devices(self, index: int) -> int:
        """How many devices compute for a worker that begins now."""
        return self.session.num_devices(index)

    def _empty_slots(self, first: Tensor) -> list[Fetched]:
        others = (torch.zeros_like(first) for _ in range(1, self.num_slots))
        return [Fetched(parameters) for parameters in (first, *others)]

    def restore(self, vectors: dict[str, Tensor], state: TrainingState) -> None:
        """Let the workers go on from a checkpoint, as far as it knows them.

        Args:
            vectors: [P] by name.
            state: The state of the checkpoint.
        """
        for worker in self.workers:
            if worker.index in state.workers:
                worker.restore(vectors, state.workers[worker.index])
                if worker.state_vectors().keys() <= vectors.keys():
                    self.begin_anew.discard(worker.index)

    @abstractmethod
    def train(self) -> str:
        """Train until there is a reason to stop; return it."""

    def fetch(self, index: int, slot: int = 0) -> None:
        """Hand a worker the newest parameters, for one of its slots."""
        fetched = self.fetched[index][slot]
        batches_before = self.workers[index].batches if index in self.begin_anew else None
        self.begin_anew.discard(index)
        fetched.versions = self.session.exchanges.fetch(
            index, fetched.parameters, batches_before, slot
        )

    def begin_window(self, index: int, progress: float, slot: int = 0) -> None:
        """Let a worker begin a window on what it has fetched; arguments as of `Worker.begin`."""
        worker, fetched = self.workers[index], self.fetched[index][slot]
        if worker.flat.parameters is not fetched.parameters:
            worker.flat.bind(fetched.parameters, worker.flat.gradients)
        worker.versions = fetched.versions
        worker.begin(progress, slot)

    def push(
        self,
        index: int,
        window: Sequence[AssignedBatch],
        slot: int = 0,
        compute_seconds: float | None = None,
        exchange_seconds: float | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Compute what is left of a worker's window and exchange it for the newest parameters.

        Args:
            index: Which worker.
            window: What it has drawn.
            slot: Which of its slots it has drawn it for.
            compute_seconds: The time that it is said to have taken; None for what it took.
            exchange_seconds: Likewise, of the exchange.
            idle_seconds: See `WindowFigures`.
        """
        worker, fetched = self.workers[index], self.fetched[index][slot]
        if worker.window is None:
            self.begin_window(index, window[0].progress, slot)
        assert worker.window is not None
        worker.add_rest(window)
        computed = worker.end(window)
        if compute_seconds is not None:
            computed.figures.compute_seconds = compute_seconds
            computed.figures.idle_seconds = idle_seconds
        reply = self.session.exchange(
            computed, worker.flat.gradients, fetched.parameters, exchange_seconds
        )
        fetched.versions = reply.versions

    def replace(self, index: int, batches: int | None = None) -> None:
        """Put a new worker, which has fetched nothing yet, in the place of one that died.

        Args:
            index: Which worker.
            batches: That its predecessors computed; None where it is known here.
        """
        dead = self.workers[index]
        batches = dead.batches if batches is None else batches
        self.workers[index] = self._new_worker(index, dead.flat, batches)
        self.begin_anew.add(index)
        for fetched in self.fetched[index]:
            fetched.versions = ()

    def save_if_due(self) -> None:
        """Save, and validate, when it is time."""
        self.saver.save_if_due(self.state)

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        self.saver.finish(self.state(), validate=validate)

    def validate_restored(self) -> None:
        """Validate the resumed checkpoint, which was saved for that, after all."""
        self.saver.save(self.state(), to_validate=True)

    def open_windows(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps of windows that are computed in part: vectors [P], and the rest.

        In place of the fetched parameters' versions it has those of the replicas.
        """
        vectors: dict[str, Tensor] = {}
        rest: dict[str, Any] = {}
        for worker in self.workers:
            if worker.window is not None:
                vectors[f"window_gradient.{worker.index}"] = worker.flat.gradients
                rest[str(worker.index)] = {
                    "progress": worker.window.progress,
                    "versions": worker.versions,
                    "finite": worker.window.finite,
                    "batches": [
                        [float(b.cross_entropy), b.target_words, b.source_words]
                        for b in worker.window.batches
                    ],
                    "padding": [b.padding for b in worker.window.batches],
                }
        return vectors, rest

    def restore_open_windows(self, vectors: dict[str, Tensor], saved: Mapping[str, Any]) -> None:
        """Go on with the windows that `open_windows` returned; their replicas are there already."""
        for index, content in typed(dict[int, dict[str, Any]], saved, "open").items():
            worker = self.workers[index]
            worker.flat.gradients.copy_(vectors[f"window_gradient.{index}"])
            worker.versions = as_versions(content["versions"], len(self.session.server.shards))
            figures = typed(list[tuple[Measured, Positive, int]], content["batches"], "batches")
            padding = typed(list[int], content.get("padding", [0] * len(figures)), "padding")
            worker.window = OpenWindow(
                typed(float, content["progress"], "progress"),
                slot=0,
                batches=[
                    BatchFigures(torch.tensor(loss), target, source, padded)
                    for (loss, target, source), padded in zip(figures, padding, strict=True)
                ],
                finite=typed(bool, content.get("finite", True), "finite"),
            )

    def close(self) -> None:
        """Let go of the workers; there are no processes to end."""
        self.workers.clear()

    def state(self) -> DriverState:
        """What a checkpoint must keep besides the server's state: here, that of the workers."""
        vectors: dict[str, Tensor] = {}
        for worker in self.workers:
            vectors.update(worker.state_vectors())
        return DriverState({worker.index: worker.numbers() for worker in self.workers}, vectors)


class InlineDriver(InProcessDriver):
    """Runs one worker to the end: it and the server take turns in this process."""

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        self.fetch(0)
        while (reason := self.session.stop_reason()) is None:
            self.push(0, self.session.next_window(0))
            self.save_if_due()
        return reason
