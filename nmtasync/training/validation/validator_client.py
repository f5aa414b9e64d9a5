"""The main process's side of the validator process: snapshots out, results in.

The last state is saved whatever happens: by the validator process or, if that has died or is busy
when training is stopped, by this one. Snapshots of what lies on GPUs go to page-locked host memory.
"""

from __future__ import annotations

from typing import NoReturn

from nmtasync.checkpoints.history import Validation
from nmtasync.errors import TrainingError
from nmtasync.machine.device import available_cores
from nmtasync.machine.processes import POLL_SECONDS, Child, ChildEndedError
from nmtasync.server.transport import page_lock, shared_vector
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.saver import Saver
from nmtasync.training.validation.validator_process import (
    Request,
    Saved,
    ValidatorSetup,
    run_validator,
)


class ValidatorClient(Saver):
    """Has snapshots saved and validated by a process of their own.

    Args:
        session: The run, which is told the results.

    Attributes:
        vectors: [P] by name, the last snapshot, in shared memory.
        state: The rest of it.
        connection: To the process.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._validating = False
        self._saved = False
        self._cut_off = False
        server = session.server
        self.vectors = {name: shared_vector(server.size) for name in server.names}
        if any(gpu.type == "cuda" for gpu in server.devices):
            for vector in self.vectors.values():
                page_lock(vector, session.parts.devices[0])
        setup = ValidatorSetup(session.parts, self.vectors)
        self.state = session.start
        self.child = Child(run_validator, setup, "validator")
        self.connection = self.child.connection

    def save(self, driver: DriverState, *, to_validate: bool, alone: bool = False) -> None:
        """Copy the server's state and have it saved and, if asked for, validated.

        Args:
            driver: What the driver adds.
            to_validate: Whether to validate it.
            alone: Whether no worker is running, so that all cores may be used.
        """
        assert not self.busy
        self.session.server.copy_vectors(self.vectors)
        self.state = self.take_snapshot(driver, self.vectors, to_validate=to_validate).state
        self.busy, self._validating, self._saved = True, to_validate, False
        try:
            self.child.send(Request(self.state, available_cores() if alone else 1))
        except ChildEndedError:
            self._fail("it has died")

    def receive(self) -> None:
        """Take one message from the process.

        Raises:
            TrainingError: The process has failed.
        """
        try:
            message = self.child.receive()
        except ChildEndedError:
            self.child.process.join()
            self._fail(self.child.last_words or f"exit code {self.child.process.exitcode}")
        match message:
            case Saved():
                self.note_saved(message.updates)
                self._saved = True
                self.busy = self._validating
            case Validation():
                self.note_validated(message)
                self.busy = False

    def _fail(self, cause: str) -> NoReturn:
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
        self.child.end()
        self._cut_off |= self.busy and self._validating
        self.busy = False

    def finish(self, driver: DriverState, *, validate: bool) -> None:
        """Have the last state saved, then end the process; save it here if the process fails.

        Args:
            driver: What the driver adds.
            validate: Whether to validate the last state if that is still to do; given up on a
                stop request.

        Raises:
            TrainingError: The process has failed.
        """
        saved = False
        try:
            if validate:
                self.drain()
                if self.session.stop_request is None:
                    known = self.session.history.includes(self.session.server.updates)
                    self.save(driver, to_validate=not known, alone=True)
                    self.drain()
                    saved = True
        finally:
            self.stop()
            if not saved:  # a resumed run makes up for a validation that was cut off
                server = self.session.server
                server.copy_vectors(self.vectors)
                self.write(self.take_snapshot(driver, self.vectors, to_validate=self._cut_off))
