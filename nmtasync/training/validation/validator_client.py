"""The main process's side of the validator process: snapshots out, results in.

The last state is saved whatever happens, unless it may be a diverged one: by the validator process
or, if that has died or is busy when training is stopped, by this one. Snapshots of what lies on
GPUs go to page-locked host memory.
"""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Connection

from nmtasync.checkpoints.history import Validation
from nmtasync.errors import TrainingError
from nmtasync.machine.cores import available_cores
from nmtasync.machine.processes import POLL_SECONDS, Child, ChildEndedError
from nmtasync.machine.supervision import Supervision
from nmtasync.server.transport import page_lock, shared_vector
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.saver import Saver
from nmtasync.training.validation.validator_process import (
    Request,
    Saved,
    SaveFailed,
    Told,
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
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._validating = False
        self._saved = False
        self._cut_off = False
        server = session.server
        self.supervision: Supervision[str] = Supervision(session.config.asynchronous.worker_timeout)
        self.deaths = 0  # since something was saved or validated
        self.vectors = {name: shared_vector(server.size) for name in server.names}
        if any(gpu.type == "cuda" for gpu in server.devices):
            for vector in self.vectors.values():
                page_lock(vector, session.parts.devices[0])
        self._setup = ValidatorSetup(session.parts, self.vectors)
        self.state = session.start
        self._threads = 1
        self.child = Child(run_validator, self._setup, "validator")

    @property
    def connection(self) -> Connection:
        """To the process."""
        return self.child.connection

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
        self._threads = available_cores() if alone else 1
        self._request()

    def _request(self) -> None:
        self.supervision.expect("validator")
        needed = self.session.divergence.needed
        with contextlib.suppress(ChildEndedError):  # its pipe will say so when it is read
            self.child.send(Request(self.state, self._threads, needed))

    def receive(self) -> None:
        """Take one message from the process; put another in its place if it has ended.

        Raises:
            TrainingError: The process has failed too often.
        """
        try:
            message = self.child.receive()
        except ChildEndedError:
            self.child.process.join()
            self._replace()
            return
        self.supervision.expect("validator")
        match message:
            case Saved():
                if not self._saved:  # else by one that died after it
                    self.note_saved(message.updates)
                self._saved, self.deaths = True, 0
                self.busy = self._validating
            case SaveFailed():
                self.note_failed(message.cause)
                self.busy = False
            case Told(text):
                self.session.reporter.tell_once(text)  # one that has died may have said it
            case Validation():
                self.note_validated(message)
                self.busy, self.deaths = False, 0
        if not self.busy:
            self.supervision.rest("validator")

    def supervise(self) -> None:
        """End and replace the process if it has been silent for too long."""
        if self.supervision.overdue():
            self.child.end_silent(self.supervision.limit)
            self._replace()

    def _replace(self) -> None:
        """Start another process, which does again what the last one has not done."""
        session, log = self.session, self.session.run.logs / "validator.log"
        cause = self.child.cause_of_death(log)
        self.child.end()
        session.reporter.worker_event("validator", cause, session.clocks())
        self.supervision.rest("validator")
        self.deaths += 1
        if self.deaths > session.config.asynchronous.max_restarts:
            raise TrainingError(
                f"the process that saves and validates ended {self.deaths} times in a row; it "
                f"{cause}",
                where=log,
                remedy="the state is saved if it can be; remove the cause and run the same "
                "command again",
            )
        self.child = Child(run_validator, self._setup, "validator")
        if self.busy:
            self._request()

    def drain(self) -> None:
        """Wait for what is under way; a validation is given up when someone stops training."""
        while self.busy:
            if self.connection.poll(POLL_SECONDS):
                self.receive()
                continue
            self.supervise()
            if self.session.stop_request and self._saved:
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
        saved, accepted = False, self.accepts_last_state()
        try:
            if validate:
                self.drain()
                if self.session.stop_request is None and accepted:
                    known = self.session.history.includes(self.session.server.updates)
                    self.save(driver, to_validate=not known, alone=True)
                    self.drain()
                    saved = self._saved
        finally:
            self.stop()
            if accepted and not saved:  # a resumed run makes up for a validation that was cut off
                server = self.session.server
                server.copy_vectors(self.vectors)
                self.write(self.take_snapshot(driver, self.vectors, to_validate=self._cut_off))
