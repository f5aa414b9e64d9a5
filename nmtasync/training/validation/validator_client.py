"""The main process's side of the validator process: snapshots out, results in."""

from __future__ import annotations

from multiprocessing.context import ForkServerContext

from nmtasync.checkpoints import store
from nmtasync.checkpoints.history import Validation
from nmtasync.errors import TrainingError
from nmtasync.machine.device import available_cores
from nmtasync.machine.processes import Failure
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.server.transport import page_lock, shared_vector
from nmtasync.training.session import Session
from nmtasync.training.validation.validator_process import (
    Request,
    Saved,
    ValidatorSetup,
    run_validator,
)

POLL_SECONDS = 0.2
"""How often a request to stop is looked for while a validation is waited for."""


class ValidatorClient:
    """Has snapshots saved and validated by a process of their own.

    Args:
        session: The run, which is told the results.
        device: Where to validate.
        vocabulary_sizes: Of source and target.
        context: How processes are started.

    Attributes:
        busy: Whether a request is under way.
    """

    def __init__(
        self,
        session: Session,
        device: str,
        vocabulary_sizes: tuple[int, int],
        context: ForkServerContext,
    ) -> None:
        self.session = session
        self.vocabulary_sizes = vocabulary_sizes
        self.busy = False
        self._validating = False
        self._saved = False
        self._cut_off = False
        server = session.server
        self.vectors = {name: shared_vector(server.size) for name in server.names}
        if any(gpu.type == "cuda" for gpu in server.devices):
            for vector in self.vectors.values():
                page_lock(vector, device)
        setup = ValidatorSetup(device, session.run, session.config, vocabulary_sizes, self.vectors)
        self.connection, there = context.Pipe()
        self.process = context.Process(
            target=run_validator, args=(setup, there), name="validator", daemon=True
        )
        self.process.start()
        there.close()

    def request(
        self, *, to_validate: bool, workers: dict[int, dict[str, int]], alone: bool = False
    ) -> None:
        """Copy the server's state and have it saved and, if asked for, validated.

        Args:
            to_validate: Whether to validate it.
            workers: The clocks of the workers.
            alone: Whether no worker is running, so that all cores may be used.
        """
        assert not self.busy
        self.session.server.copy_vectors(self.vectors)
        snapshot = self.session.snapshot(
            to_validate=to_validate, vectors=self.vectors, workers=workers
        )
        self.busy, self._validating, self._saved = True, to_validate, False
        try:
            self.connection.send(Request(snapshot.state, available_cores() if alone else 1))
        except OSError:
            self._fail("it has died")

    def receive(self) -> None:
        """Take one message from the process.

        Raises:
            TrainingError: The process has failed.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self._fail(f"exit code {self.process.exitcode}")
        match message:
            case Saved():
                self.session.note_saved(message.updates)
                self._saved = True
                self.busy = self._validating
            case Validation():
                self.session.note_validated(message)
                self.busy = False
            case Failure():
                self._fail(message.text)

    def _fail(self, cause: str) -> None:
        log = self.session.run.logs / "validator.log"
        log.write_text(cause, encoding="utf-8")
        raise TrainingError(
            f"saving or validating failed: {cause.strip().splitlines()[-1]}",
            where=log,
            remedy="remove the cause and run the same command again",
        )

    def drain(self) -> None:
        """Wait for what is under way; a validation is given up when someone stops training."""
        while self.busy:
            if self.connection.poll(POLL_SECONDS):
                self.receive()
            elif self.session.stop_request and self._saved:
                self.stop()

    def stop(self) -> None:
        """End the process at once; what it was writing is whole or not there."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self._cut_off |= self.busy and self._validating
        self.busy = False

    def finish(self, workers: dict[int, dict[str, int]], *, validate: bool) -> None:
        """End the process, when the last state is saved, whatever becomes of the process.

        Args:
            workers: The clocks of the workers.
            validate: Whether to validate what has not been; ends when someone stops training.

        Raises:
            TrainingError: The process has failed.
        """
        saved = False
        try:
            if validate:
                self.drain()
                if self.session.stop_request is None:
                    known = self.session.history.includes(self.session.server.updates)
                    self.request(to_validate=not known, workers=workers, alone=True)
                    self.drain()
                    saved = True
        finally:
            self.stop()
            if not saved:
                self._save_here(workers)

    def _save_here(self, workers: dict[int, dict[str, int]]) -> None:
        """Save the server's state in this process; a resumed run makes up for what was cut off."""
        model = build_model(self.session.config.model, *self.vocabulary_sizes)
        self.session.server.copy_vectors(self.vectors)
        snapshot = self.session.snapshot(
            to_validate=self._cut_off, vectors=self.vectors, workers=workers
        )
        store.save(self.session.run, snapshot, FlatModel(model), self.session.config)
        self.session.note_saved(snapshot.updates)
