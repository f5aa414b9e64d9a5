"""Several workers on this machine: a process for each, and this one as their server.

This process is the only writer of the shards. It starts the workers, takes their pushes one
after another, replaces workers that die, and has a further process save and validate.

With overlap a worker has two slots, each with a window under way. Its pushes go out one after
another; the server answers a push into the slot that it came from while the worker computes in the
other. So the parameters of a window are those of the answer to the push before last.

On GPUs the slots are memory of the worker's GPU that this process allocates; with N workers there
are a context of this process on each GPU and one of each worker, and the validator's. None of that
has run on a GPU yet: `tests/house/test_cuda.py` holds the equivalences for a machine that has one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from nmtasync.errors import TrainingError
from nmtasync.machine.processes import POLL_SECONDS, Child, ChildEndedError, end_all
from nmtasync.machine.supervision import Supervision, pause_before_restart
from nmtasync.server.transport import Slot
from nmtasync.training.asynchronous.worker_process import (
    Done,
    OwnPush,
    Ready,
    Task,
    WorkerSetup,
    WriteBack,
    run_worker,
)
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.validator_client import ValidatorClient
from nmtasync.worker.window import ComputedWindow


@dataclass
class WorkerHandle:
    """A worker as the main process sees it.

    Attributes:
        index: Which worker it is.
        slots: The memory shared with it, for each window under way; its replacements inherit it.
        child: The process that is the worker now.
        batches: Batches that it and its predecessors have computed.
        deaths: How often in a row it has died without a push.
        restart_at: When it is started again, on the clock of the supervision; None while it runs.
        idle: The slots in which it waits for a task.
    """

    index: int
    slots: list[Slot]
    child: Child
    batches: int = 0
    deaths: int = 0
    restart_at: float | None = None
    idle: set[int] = field(default_factory=set)


class LocalDriver:
    """Runs several workers to the end.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.supervision: Supervision[int] = Supervision(session.config.asynchronous.worker_timeout)
        slots, size = range(session.config.asynchronous.num_slots), session.server.size
        # all memory before the first process, so that too little of it leaves none behind
        memory = [[Slot.allocate(size, device) for _ in slots] for device in session.parts.devices]
        self.validator = ValidatorClient(session)
        self.workers: dict[int, WorkerHandle] = {}
        for index, own in enumerate(memory):
            batches = session.start.batches_of(index)
            self.workers[index] = WorkerHandle(
                index, own, self._start(index, own, batches), batches
            )

    def _start(self, index: int, slots: list[Slot], batches: int) -> Child:
        session = self.session
        self.supervision.expect(index)
        sequence = session.server.last_sequences.get(index, 0)
        num_shards = len(session.server.shards)
        setup = WorkerSetup(index, session.parts, slots, sequence, batches, num_shards)
        return Child(run_worker, setup, f"worker {index}")

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        while (reason := self.session.stop_reason()) is None:
            self._serve_once()
            self.validator.save_if_due(self.state)
        return reason

    def _serve_once(self) -> None:
        running = [w for w in self.workers.values() if w.restart_at is None]
        connections = {w.child.connection: w for w in running}
        ready = wait([*connections, self.validator.connection], POLL_SECONDS)
        for connection in ready:
            if connection is self.validator.connection:
                self.validator.receive()
            else:
                assert isinstance(connection, Connection)
                self._receive(connections[connection])
            if self.session.stop_reason():
                return  # no push is applied past a limit
        self._supervise()

    def _supervise(self) -> None:
        """End who has been silent for too long, and start again whose pause is over."""
        for index in self.supervision.overdue():
            worker = self.workers[index]
            worker.child.end_silent(self.supervision.limit)
            self._replace(worker)
        self._restart_due()
        self.validator.supervise()

    def _restart_due(self) -> None:
        for worker in self.workers.values():
            if worker.restart_at is not None and worker.restart_at <= self.supervision.now:
                worker.restart_at = None
                worker.child = self._start(worker.index, worker.slots, worker.batches)

    def _receive(self, worker: WorkerHandle) -> None:
        try:
            message = worker.child.receive()
        except ChildEndedError:
            self._replace(worker)
            return
        self.supervision.done(worker.index)
        self.supervision.expect(worker.index)
        match message:
            case Ready():
                self._fetch(worker, 0, batches_before=worker.batches)
                for slot in range(1, len(worker.slots)):
                    self._fetch(worker, slot)
            case ComputedWindow(push, figures):
                worker.deaths = 0
                worker.batches += figures.num_batches
                used = worker.slots[push.slot]
                reply = self.session.exchange(message, used.mailbox, used.landing)
                self._give_task(worker, push.slot, reply.versions)
            case OwnPush(push, number):
                used = worker.slots[0]
                reply = self.session.exchange_own(push, used.mailbox, used.landing, number)
                self._send(worker, Done(reply.versions))
            case WriteBack(number, progress):
                landing = worker.slots[0].landing
                self.session.exchanges.write_back(worker.index, landing, number, progress)
                self._send(worker, Done(self.session.server.versions))

    def _fetch(self, worker: WorkerHandle, slot: int, batches_before: int | None = None) -> None:
        landing = worker.slots[slot].landing
        versions = self.session.exchanges.fetch(worker.index, landing, batches_before, slot)
        self._give_task(worker, slot, versions)

    def _give_task(self, worker: WorkerHandle, slot: int, versions: tuple[int, ...]) -> None:
        window = self.session.next_window(worker.index, slot)
        if not window:
            worker.idle.add(slot)
            if len(worker.idle) == len(worker.slots):
                self.supervision.rest(worker.index)
            return
        if len(worker.idle) == len(worker.slots):
            self.supervision.expect(worker.index)
        worker.idle.discard(slot)
        self._send(worker, Task(window, versions, slot))

    def _send(self, worker: WorkerHandle, message: Task | Done) -> None:
        with contextlib.suppress(ChildEndedError):  # its pipe will say so when it is read
            worker.child.send(message)

    def _replace(self, worker: WorkerHandle) -> None:
        """Start a replacement for a worker that died; its windows go to whoever draws next."""
        session = self.session
        session.cursor.give_back(worker.index)
        self.supervision.rest(worker.index)
        worker.idle.clear()
        worker.child.connection.close()
        worker.child.process.join()
        cause = worker.child.cause_of_death(session.run.logs / f"worker-{worker.index}.log")
        session.reporter.worker_event(worker.index, cause, session.clocks())
        worker.deaths += 1
        if worker.deaths > session.config.asynchronous.max_restarts:
            self._give_up(worker)
        else:
            worker.restart_at = self.supervision.now + pause_before_restart(worker.deaths)
            self._restart_due()
        for other in self.workers.values():
            for slot in sorted(other.idle):  # the epochs had ended, but for what came back
                self._fetch(other, slot)

    def _give_up(self, worker: WorkerHandle) -> None:
        del self.workers[worker.index]
        clocks = self.session.clocks()
        self.session.reporter.worker_event(worker.index, "is not started again", clocks)
        if not self.workers:
            cause = (worker.child.last_words.strip().splitlines() or ["killed"])[-1]
            raise TrainingError(
                f"no worker is left; the last one ended with: {cause}",
                where=self.session.run.logs,
                remedy="the state is saved; remove the cause and run the same command again",
            )

    def state(self) -> DriverState:
        """What a checkpoint must keep besides the server's state: how much workers have done."""
        return DriverState({w.index: {"batches": w.batches} for w in self.workers.values()})

    def stop_workers(self) -> None:
        """End the worker processes at once; windows that were not pushed will be drawn again."""
        end_all(worker.child for worker in self.workers.values())

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        self.stop_workers()
        self.validator.finish(self.state(), validate=validate)

    def close(self) -> None:
        """End all processes that are still there, whatever has happened."""
        self.stop_workers()
        self.validator.stop()

    def validate_restored(self) -> None:
        """Validate the resumed checkpoint, which was saved for that, after all."""
        self.validator.save(self.state(), to_validate=True)
