"""What the drivers share that run their workers, save and validate in this process.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtasync.checkpoints import store
from nmtasync.checkpoints.store import Snapshot
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.training.session import Session
from nmtasync.training.validation.validator import Validator
from nmtasync.worker.worker import Worker


@dataclass
class Fetched:
    """What a worker has been handed for one of its slots.

    Attributes:
        parameters: [P].
        versions: Of each shard; none before the first fetch.
    """

    parameters: Tensor
    versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class WorkerParts:
    """What the workers of this process are made of.

    Attributes:
        flat: The first worker's replica, on the workers' device.
        corpus: The training corpus.
        device: The workers' device.
        vocabulary_sizes: Of source and target.
    """

    flat: FlatModel[SequenceToSequence]
    corpus: ParallelShards
    device: str
    vocabulary_sizes: tuple[int, int]


def replica_name(worker: int, slot: int) -> str:
    """Under which name a checkpoint keeps what a worker has fetched for a slot."""
    return f"replica.{worker}.{slot}"


class InProcessDriver(ABC):
    """Workers that take turns on one device, each with a replica of its own for each slot.

    They share the buffer for the gradient: a push is computed when its turn has come, which gives
    the same gradient as earlier, since nothing but the worker itself changes its replica.

    Args:
        session: The run.
        parts: What the workers are made of.
        num_workers: How many there are.
    """

    def __init__(self, session: Session, parts: WorkerParts, num_workers: int) -> None:
        flat = parts.flat
        self.session = session
        self.flat = flat
        self.corpus = parts.corpus
        self.anew = set(range(num_workers))  # who has nothing of a worker before it
        self.workers = [self._new_worker(0, flat)]
        for index in range(1, num_workers):
            model = build_model(session.config.model, *parts.vocabulary_sizes).to(parts.device)
            replica = FlatModel(model, gradients=flat.gradients)
            self.workers.append(self._new_worker(index, replica))
        self.num_slots = session.config.asynchronous.num_slots
        self.fetched = [self._empty_slots(worker.flat.parameters) for worker in self.workers]
        self.validator = Validator(session.run, flat.model, session.config, parts.device)

    def _new_worker(
        self, index: int, flat: FlatModel[SequenceToSequence], batches: int = 0
    ) -> Worker:
        sequence = self.session.server.last_sequences.get(index, 0)
        config, write_back = self.session.config, None
        if config.asynchronous.local_write_back:
            server = self.session.server
            write_back = functools.partial(server.write_back, index, flat.parameters)
        return Worker(index, flat, self.corpus, config, sequence, batches, write_back)

    def _empty_slots(self, first: Tensor) -> list[Fetched]:
        others = (torch.zeros_like(first) for _ in range(1, self.num_slots))
        return [Fetched(parameters) for parameters in (first, *others)]

    def restore(self, vectors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Let the workers go on from a checkpoint, as far as it knows them.

        Args:
            vectors: [P] by name.
            state: The state of the checkpoint.
        """
        for worker in self.workers:
            if str(worker.index) in state["workers"]:
                worker.restore(vectors, state["workers"][str(worker.index)])
                if worker.state_vectors().keys() <= vectors.keys():
                    self.anew.discard(worker.index)

    @abstractmethod
    def train(self) -> str:
        """Train until there is a reason to stop; return it."""

    def fetch(self, index: int, slot: int = 0) -> None:
        """Hand a worker the newest parameters, for one of its slots."""
        fetched = self.fetched[index][slot]
        batches_before = self.workers[index].batches if index in self.anew else None
        self.anew.discard(index)
        fetched.versions = self.session.fetch(index, fetched.parameters, batches_before, slot)

    def push(
        self,
        index: int,
        window: Sequence[AssignedBatch],
        slot: int = 0,
        compute_seconds: float | None = None,
        exchange_seconds: float | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Compute a worker's window and exchange its gradient for the newest parameters.

        Args:
            index: Which worker.
            window: What it has drawn.
            slot: Which of its slots it has drawn it for.
            compute_seconds: The time that it is said to have taken; None for what it took.
            exchange_seconds: Likewise, of the exchange.
            idle_seconds: See `Push`.
        """
        worker, fetched = self.workers[index], self.fetched[index][slot]
        if worker.flat.parameters is not fetched.parameters:
            worker.flat.bind(fetched.parameters, worker.flat.gradients)
        worker.versions = fetched.versions
        push = worker.compute(window, slot)
        if compute_seconds is not None:
            push = dataclasses.replace(
                push, compute_seconds=compute_seconds, idle_seconds=idle_seconds
            )
        reply = self.session.exchange(
            push, worker.flat.gradients, fetched.parameters, exchange_seconds
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
        self.anew.add(index)
        for fetched in self.fetched[index]:
            fetched.versions = ()

    def save_if_due(self) -> None:
        """Save, and validate, when it is time."""
        if self.session.validation_due():
            self._validate(self._save(to_validate=True))
        elif self.session.save_due():
            self._save(to_validate=False)

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        validate = validate and not self.session.history.includes(self.session.server.updates)
        snapshot = self._save(to_validate=validate)
        if validate:
            self._validate(snapshot)

    def validate_restored(self) -> None:
        """Make up for the validation that the resumed checkpoint was saved for."""
        self._validate(self._snapshot(to_validate=True))

    def own_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint must keep besides the server's and the workers' state.

        Returns:
            Vectors [P] by name, and what goes into the JSON.
        """
        return {}, {}

    def _snapshot(self, *, to_validate: bool) -> Snapshot:
        own_vectors, own_state = self.own_state()
        vectors = {**self.session.server.vectors, **own_vectors}
        for worker in self.workers:
            vectors.update(worker.state_vectors())
        counts = {worker.index: worker.counts() for worker in self.workers}
        snapshot = self.session.snapshot(to_validate=to_validate, vectors=vectors, workers=counts)
        return dataclasses.replace(snapshot, state={**snapshot.state, **own_state})

    def _save(self, *, to_validate: bool) -> Snapshot:
        snapshot = self._snapshot(to_validate=to_validate)
        store.save(self.session.run, snapshot, self.flat, self.session.config)
        self.session.note_saved(snapshot.updates)
        return snapshot

    def _validate(self, snapshot: Snapshot) -> None:
        live = self.flat.parameters
        self.flat.bind(snapshot.scored, self.flat.gradients)
        validation = self.validator.validate(snapshot)
        self.flat.bind(live, self.flat.gradients)
        self.flat.model.train()
        self.session.note_validated(validation)


class InlineDriver(InProcessDriver):
    """Runs one worker to the end: it and the server take turns in this process."""

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        self.fetch(0)
        while (reason := self.session.stop_reason()) is None:
            self.push(0, self.session.next_window(0))
            self.save_if_due()
        return reason
