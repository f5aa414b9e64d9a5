"""Several workers on this machine: a process for each, and this one as their server.

On GPUs the slots are memory of the worker's GPU that this process allocates; with N workers there
are a context of this process on each GPU and one of each worker, and the validator's. None of that
has run on a GPU yet: `tests/house/test_cuda.py` holds the equivalences for a machine that has one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from nmtasync.machine.processes import POLL_SECONDS, Child, ChildEndedError, end_all
from nmtasync.server.transport import Slot
from nmtasync.training.asynchronous.worker_process import (
    Done,
    OwnPush,
    Task,
    WorkerSetup,
    WriteBack,
    run_worker,
)
from nmtasync.training.asynchronous.workers import Death, WorkerHandle, WorkersDriver
from nmtasync.training.session import Session


@dataclass
class LocalWorker(WorkerHandle):
    """A worker of this machine, which the memory of its slots is shared with.

    Attributes:
        child: The process that is the worker now; None before the first.
    """

    child: Child | None = None

    @property
    def process(self) -> Child:
        """The process that is the worker now."""
        assert self.child is not None
        return self.child


class LocalDriver(WorkersDriver[LocalWorker]):
    """Runs several workers on this machine to the end.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        slots, size = range(session.config.asynchronous.num_slots), session.server.size
        # all memory before the first process, so that too little of it leaves none behind
        memory = [[Slot.allocate(size, device) for _ in slots] for device in session.parts.devices]
        workers = [
            LocalWorker(index, own, session.start.batches_of(index))
            for index, own in enumerate(memory)
        ]
        super().__init__(session, workers)
        for worker in workers:
            self.start(worker)

    def start(self, worker: LocalWorker) -> None:
        """Start the process that is to be the worker."""
        index, session = worker.index, self.session
        self.supervision.expect(index)
        sequence = session.server.last_sequences.get(index, 0)
        num_shards = len(session.server.shards)
        own = index, session.parts, worker.slots
        setup = WorkerSetup(*own, sequence, worker.batches, num_shards)
        worker.child = Child(run_worker, setup, f"worker {index}")

    def receive_what_is_there(self) -> None:
        """Take one message of each process that has one, unless training is over meanwhile."""
        running = [w for w in self.workers.values() if w.restart_at is None]
        connections = {w.process.connection: w for w in running}
        ready = wait([*connections, self.validator.connection], POLL_SECONDS)
        for connection in ready:
            if connection is self.validator.connection:
                self.validator.receive()
            else:
                assert isinstance(connection, Connection)
                self._receive(connections[connection])
            if self.session.stop_reason():
                return  # no push is applied past a limit

    def _receive(self, worker: LocalWorker) -> None:
        try:
            message = worker.process.receive()
        except ChildEndedError:
            self.replace(worker)
            return
        self.heard(worker)
        match message:
            case OwnPush(push, number):
                used = worker.slots[0]
                reply = self.session.exchange_own(push, used.mailbox, used.landing, number)
                self.send(worker, Done(reply.versions))
            case WriteBack(number, progress):
                landing = worker.slots[0].landing
                self.session.exchanges.write_back(worker.index, landing, number, progress)
                self.send(worker, Done(self.session.server.versions))
            case _:
                self.take(worker, message)

    def send(self, worker: LocalWorker, message: Task | Done) -> None:
        """Send what the worker waits for."""
        with contextlib.suppress(ChildEndedError):  # its pipe will say so when it is read
            worker.process.send(message)

    def end_silent(self, worker: LocalWorker) -> None:
        """End a process that has been silent for too long."""
        worker.process.end_silent(self.supervision.limit)

    def bury(self, worker: LocalWorker) -> Death:
        """Wait for the end of the worker's process, and close this end of the pipe."""
        child = worker.process
        child.connection.close()
        child.process.join()
        what = child.cause_of_death(self.session.run.logs / f"worker-{worker.index}.log")
        lines = child.last_words.strip().splitlines()
        return Death(what, lines[-1]) if lines else Death(what)

    def stop_workers(self) -> None:
        """End the worker processes at once; windows that were not pushed will be drawn again."""
        end_all(worker.child for worker in self.workers.values() if worker.child)
