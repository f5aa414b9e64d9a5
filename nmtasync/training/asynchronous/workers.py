"""What the drivers share whose workers are processes of their own, wherever these run.

The main process is the only writer of the shards. It takes the pushes of the workers one after
another, replaces workers that die, and has a further process save and validate.

With overlap a worker has two slots, each with a window under way. Its pushes go out one after
another; the server answers a push into the slot that it came from while the worker computes in the
other. So the parameters of a window are those of the answer to the push before last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from nmtasync.errors import TrainingError
from nmtasync.machine.supervision import Supervision, pause_before_restart
from nmtasync.server.transport import Slot
from nmtasync.training.asynchronous.worker_process import Ready, Task
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.validator_client import ValidatorClient
from nmtasync.worker.window import ComputedWindow


class Death(NamedTuple):
    """How a worker has ended.

    Attributes:
        what: What follows its name, for example "was killed by signal 9".
        error: The last line of the error that it left, if any.
    """

    what: str
    error: str = "killed"


@dataclass
class WorkerHandle:
    """A worker as the main process sees it.

    Attributes:
        index: Which worker it is.
        slots: The main process's side of each window under way; its replacements inherit it.
        batches: Batches that it and its predecessors have computed.
        deaths: How often in a row it has died without a push.
        restart_at: When it is started again, on the clock of the supervision; None while it runs.
        idle: The slots in which it waits for a task.
    """

    index: int
    slots: list[Slot]
    batches: int = 0
    deaths: int = 0
    restart_at: float | None = None
    idle: set[int] = field(default_factory=set)


HandleT = TypeVar("HandleT", bound=WorkerHandle)


class WorkersDriver(ABC, Generic[HandleT]):
    """Runs several workers to the end.

    Args:
        session: The run.
        workers: Not yet started.
    """

    def __init__(self, session: Session, workers: list[HandleT]) -> None:
        self.session = session
        self.supervision: Supervision[int] = Supervision(session.config.asynchronous.worker_timeout)
        self.validator = ValidatorClient(session)
        self.workers = {worker.index: worker for worker in workers}

    @abstractmethod
    def start(self, worker: HandleT) -> None:
        """Start who is to be the worker from now on; it says `Ready` in the end."""

    @abstractmethod
    def receive_what_is_there(self) -> None:
        """Wait for workers and the validator, not for long, and take what they say."""

    @abstractmethod
    def send(self, worker: HandleT, message: Task) -> None:
        """Hand a worker a task, with the parameters in the landing buffer of its slot."""

    @abstractmethod
    def end_silent(self, worker: HandleT) -> None:
        """End a worker that has been silent for too long."""

    @abstractmethod
    def bury(self, worker: HandleT) -> Death:
        """Clear away what is left of a worker that has ended, or is to; tell of what it died."""

    @abstractmethod
    def stop_workers(self) -> None:
        """End all workers at once; windows that were not pushed will be drawn again."""

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        while (reason := self.session.stop_reason()) is None:
            self.receive_what_is_there()
            if not self.session.stop_reason():
                self._supervise()
            self.validator.save_if_due(self.state)
        return reason

    def _supervise(self) -> None:
        """End who has been silent for too long, and start again whose pause is over."""
        for index in self.supervision.overdue():
            worker = self.workers[index]
            self.end_silent(worker)
            self.replace(worker)
        self._restart_due()
        self.validator.supervise()

    def _restart_due(self) -> None:
        for worker in self.workers.values():
            if worker.restart_at is not None and worker.restart_at <= self.supervision.now:
                worker.restart_at = None
                self.start(worker)

    def take(self, worker: HandleT, message: Ready | ComputedWindow) -> None:
        """Do what a worker's message asks for, and give it a task."""
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

    def heard(self, worker: HandleT) -> None:
        """Note that a worker has said something, and that more is expected of it."""
        self.supervision.done(worker.index)
        self.supervision.expect(worker.index)

    def _fetch(self, worker: HandleT, slot: int, batches_before: int | None = None) -> None:
        landing = worker.slots[slot].landing
        versions = self.session.exchanges.fetch(worker.index, landing, batches_before, slot)
        self._give_task(worker, slot, versions)

    def _give_task(self, worker: HandleT, slot: int, versions: tuple[int, ...]) -> None:
        window = self.session.next_window(worker.index, slot)
        if not window:
            worker.idle.add(slot)
            if len(worker.idle) == len(worker.slots):
                self.supervision.rest(worker.index)
            return
        if len(worker.idle) == len(worker.slots):
            self.supervision.expect(worker.index)
        worker.idle.discard(slot)
        self.send(worker, Task(window, versions, slot))

    def replace(self, worker: HandleT) -> None:
        """Start a replacement for a worker that died; its windows go to whoever draws next."""
        session = self.session
        session.cursor.give_back(worker.index)
        self.supervision.rest(worker.index)
        worker.idle.clear()
        death = self.bury(worker)
        session.reporter.worker_event(worker.index, death.what, session.clocks())
        worker.deaths += 1
        if worker.deaths > session.config.asynchronous.max_restarts:
            self._give_up(worker, death)
        else:
            worker.restart_at = self.supervision.now + pause_before_restart(worker.deaths)
            self._restart_due()
        for other in self.workers.values():
            for slot in sorted(other.idle):  # the epochs had ended, but for what came back
                self._fetch(other, slot)

    def _give_up(self, worker: HandleT, death: Death) -> None:
        del self.workers[worker.index]
        clocks = self.session.clocks()
        self.session.reporter.worker_event(worker.index, "is not started again", clocks)
        if not self.workers:
            raise TrainingError(
                f"no worker is left; the last one ended with: {death.error}",
                where=self.session.run.logs,
                remedy="the state is saved; remove the cause and run the same command again",
            )

    def state(self) -> DriverState:
        """What a checkpoint must keep besides the server's state: how much workers have done."""
        return DriverState({w.index: {"batches": w.batches} for w in self.workers.values()})

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
