"""One worker: no processes, the worker and the server take turns in this one."""

from __future__ import annotations

import torch

from nmtasync.data.shards import ParallelShards
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.training import checkpoint
from nmtasync.training.checkpoint import Snapshot
from nmtasync.training.session import Session
from nmtasync.training.validation import Validator
from nmtasync.training.worker import Worker


class InlineDriver:
    """Runs one worker to the end.

    Args:
        session: The run.
        flat: The worker's replica, on the worker's device.
        corpus: The training corpus.
        device: The worker's device.
    """

    def __init__(
        self,
        session: Session,
        flat: FlatModel[SequenceToSequence],
        corpus: ParallelShards,
        device: str,
    ) -> None:
        self.session = session
        self.flat = flat
        sequence = session.server.last_sequences.get(0, 0)
        self.worker = Worker(0, flat, corpus, session.config, sequence)
        self.validator = Validator(session.run, flat.model, session.config, device)

    def restore(self, vectors: dict[str, torch.Tensor], workers: dict[str, dict[str, int]]) -> None:
        """Let the worker go on from a checkpoint."""
        if "0" in workers:
            self.worker.restore(vectors, workers["0"])

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        session, worker = self.session, self.worker
        worker.versions = session.server.fetch(self.flat.parameters, 0)
        while (reason := session.stop_reason()) is None:
            push = worker.compute(session.next_window(0))
            reply = session.exchange(push, self.flat.gradients, self.flat.parameters)
            worker.versions = reply.versions
            if session.validation_due():
                self._validate(self._save(to_validate=True))
            elif session.save_due():
                self._save(to_validate=False)
        return reason

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        validate = validate and not self.session.history.includes(self.session.server.updates)
        snapshot = self._save(to_validate=validate)
        if validate:
            self._validate(snapshot)

    def validate_restored(self) -> None:
        """Make up for the validation that the resumed checkpoint was saved for."""
        self._validate(self._snapshot(to_validate=True))

    def _snapshot(self, *, to_validate: bool) -> Snapshot:
        vectors = {**self.session.server.vectors, **self.worker.state_vectors()}
        counts = {0: self.worker.counts()}
        return self.session.snapshot(to_validate=to_validate, vectors=vectors, workers=counts)

    def _save(self, *, to_validate: bool) -> Snapshot:
        snapshot = self._snapshot(to_validate=to_validate)
        checkpoint.save(self.session.run, snapshot, self.flat, self.session.config)
        self.session.note_saved(snapshot.updates)
        return snapshot

    def _validate(self, snapshot: Snapshot) -> None:
        live = self.flat.parameters
        self.flat.bind(snapshot.scored, self.flat.gradients)
        validation = self.validator.validate(snapshot)
        self.flat.bind(live, self.flat.gradients)
        self.flat.model.train()
        self.session.note_validated(validation)
