"""Who saves and validates a run: what all forms share, and the one that does it in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from nmtasync.checkpoints import store
from nmtasync.checkpoints.history import Validation
from nmtasync.checkpoints.store import Snapshot
from nmtasync.errors import NmtasyncError, TrainingError
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.validator import Validator


class Saver(ABC):
    """Has checkpoints written and validated when it is time.

    Args:
        session: The run, which is told the results.

    Attributes:
        busy: Whether a request is under way.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.busy = False
        self._snapshot_seconds = session.start.time_seconds
        self._validated_updates = session.server.updates

    @abstractmethod
    def save(self, driver: DriverState, *, to_validate: bool) -> None:
        """Save this moment and, if asked for, validate it."""

    @abstractmethod
    def finish(self, driver: DriverState, *, validate: bool) -> None:
        """Save the last state, and validate it if asked for and not done yet."""

    def save_if_due(self, driver: Callable[[], DriverState]) -> None:
        """Save, and validate, when it is time and nothing else is under way.

        Nothing is saved while the state may be a diverged one. A validation is due when a
        multiple of `training.validate_every` has been passed, a
        checkpoint also when the last one is older than `training.save_every_minutes`.

        Args:
            driver: Returns what the driver adds to this moment.
        """
        session, options = self.session, self.session.config.training
        every = options.validate_every
        to_validate = session.server.updates // every > self._validated_updates // every
        old = session.seconds - self._snapshot_seconds >= 60 * options.save_every_minutes
        asked = session.saving.is_set() and session.unsaved
        if self.busy or session.divergence.doubtful:
            return
        if to_validate or asked or (old and session.unsaved):
            session.saving.clear()
            try:
                self.save(driver(), to_validate=to_validate)
            except TrainingError:
                raise
            except NmtasyncError as error:  # a full disk, say, which may have room by the next time
                self.note_failed(str(error))

    def note_failed(self, cause: str) -> None:
        """Report that a checkpoint, or what comes with it, could not be written."""
        self.session.reporter.save_failed(cause, self.session.clocks())

    def take_snapshot(
        self, driver: DriverState, vectors: dict[str, Tensor], *, to_validate: bool
    ) -> Snapshot:
        """Describe this moment; arguments as in `Session.state`, and the server's vectors [P]."""
        self._snapshot_seconds = self.session.seconds
        if to_validate:
            self._validated_updates = self.session.server.updates
        self.session.divergence.snapshot(self.session.server.updates)
        state = self.session.state(driver, to_validate=to_validate)
        return Snapshot({**vectors, **driver.vectors}, state)

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint in this process."""
        session = self.session
        store.save(session.run, snapshot, session.parts.layout, session.divergence.needed)
        self.note_saved(snapshot.state.updates)

    def accepts_last_state(self) -> bool:
        """Take the last state for a good one, unless it may be a diverged one; then tell it."""
        session = self.session
        if session.divergence.doubtful:
            session.reporter.display.message(
                f"the state of update {session.server.updates:,} is not saved: its loss is far "
                "above what it was, or its gradients are not finite"
            )
            return False
        session.divergence.accept(session.server.updates)
        return True

    def note_saved(self, updates: int) -> None:
        """Report a checkpoint that has been written, and delete old ones."""
        session = self.session
        session.saved_updates = updates
        session.divergence.written(updates)
        keep = session.config.training.keep_checkpoints
        store.prune(session.run, keep, session.divergence.needed)
        session.reporter.checkpoint(updates, session.clocks())

    def note_validated(self, validation: Validation) -> None:
        """Report a validation, and point `best` at its checkpoint if it is the best.

        It is noted last: a run that is killed before that validates again.
        """
        session, history = self.session, self.session.history
        best = history.would_be_best(validation)
        try:
            if best:
                store.point(session.run, "best", validation.updates)
            history.add(validation)
        except NmtasyncError as error:
            self.note_failed(str(error))
        session.reporter.validated(validation, best, history.num_since_best, session.clocks())


class InProcessSaver(Saver):
    """Saves and validates at once, with the model of a worker.

    Args:
        session: The run.
        flat: The model, on the workers' device; it is given its own parameters back.
    """

    def __init__(self, session: Session, flat: FlatModel[SequenceToSequence]) -> None:
        super().__init__(session)
        self.flat = flat
        device = session.parts.devices[0]
        tell = session.reporter.display.message
        self.validator = Validator(session.run, flat.model, session.config, device, tell)
        self.validator.rehearse()
        flat.model.train()

    def save(self, driver: DriverState, *, to_validate: bool) -> None:
        """Save this moment and, if asked for, validate it."""
        vectors = self.session.server.vectors
        snapshot = self.take_snapshot(driver, vectors, to_validate=to_validate)
        self.write(snapshot)
        if to_validate:
            self._validate(snapshot)

    def finish(self, driver: DriverState, *, validate: bool) -> None:
        """Save the last state, and validate it if asked for and not done yet."""
        if not self.accepts_last_state():
            return
        known = self.session.history.includes(self.session.server.updates)
        self.save(driver, to_validate=validate and not known)

    def _validate(self, snapshot: Snapshot) -> None:
        live = self.flat.parameters
        self.flat.bind(snapshot.scored, self.flat.gradients)
        validation = self.validator.validate(snapshot)
        self.flat.bind(live, self.flat.gradients)
        self.flat.model.train()
        self.note_validated(validation)
