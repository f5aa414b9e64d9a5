"""Several workers on this machine: a process for each, and this one as their server.

This process is the only writer of the shards. It starts the workers, takes their pushes one
after another, replaces workers that die, and has a further process save and validate.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from nmtasync.errors import TrainingError
from nmtasync.machine.processes import Failure, cause_of_death, process_context
from nmtasync.server.messages import Push
from nmtasync.server.transport import Slot
from nmtasync.training.asynchronous.worker_process import (
    Ready,
    Task,
    WorkerSetup,
    WriteBack,
    WrittenBack,
    run_worker,
)
from nmtasync.training.session import Session
from nmtasync.training.validation.validator_client import ValidatorClient

POLL_SECONDS = 0.2
"""How often the limits are looked at while no worker has anything to say."""


@dataclass
class WorkerHandle:
    """A worker as the main process sees it.

    Attributes:
        index: Which worker it is.
        slots: The memory shared with it, for each window under way; its replacements inherit it.
        process: The process that is the worker now.
        connection: This end of its pipe.
        batches: Batches that it and its predecessors have computed.
        deaths: How often in a row it has died without a push.
        idle: The slots in which it waits for a task.
        last_words: The traceback that it left, if any.
    """

    index: int
    slots: list[Slot]
    process: BaseProcess
    connection: Connection
    batches: int = 0
    deaths: int = 0
    idle: set[int] = field(default_factory=set)
    last_words: str = ""


class LocalDriver:
    """Runs several workers to the end.

    Args:
        session: The run.
        devices: One for each worker.
        threads: CPU threads of each worker.
        vocabulary_sizes: Of source and target.
        worker_batches: Batches that each worker had computed before, by its index.
    """

    def __init__(
        self,
        session: Session,
        devices: list[str],
        threads: int,
        vocabulary_sizes: tuple[int, int],
        worker_batches: dict[int, int],
    ) -> None:
        self.session = session
        self.devices = devices
        self.threads = threads
        self.vocabulary_sizes = vocabulary_sizes
        self.context = process_context()
        num_slots, size = session.config.asynchronous.num_slots, session.server.size
        # all memory before the first process, so that too little of it leaves none behind
        memory = [[Slot.allocate(size, device) for _ in range(num_slots)] for device in devices]
        self.validator = ValidatorClient(session, devices[0], vocabulary_sizes, self.context)
        self.workers: dict[int, WorkerHandle] = {}
        for index, slots in enumerate(memory):
            batches = worker_batches.get(index, 0)
            process, connection = self._start(index, slots, batches)
            self.workers[index] = WorkerHandle(index, slots, process, connection, batches)

    def _start(self, index: int, slots: list[Slot], batches: int) -> tuple[BaseProcess, Connection]:
        session = self.session
        setup = WorkerSetup(
            index=index,
            device=self.devices[index],
            threads=self.threads,
            run=session.run,
            config=session.config,
            vocabulary_sizes=self.vocabulary_sizes,
            slots=slots,
            sequence=session.server.last_sequences.get(index, 0),
            batches=batches,
        )
        here, there = self.context.Pipe()
        process = self.context.Process(
            target=run_worker, args=(setup, there), name=f"worker {index}", daemon=True
        )
        process.start()
        there.close()  # so that the pipe ends when the worker does
        return process, here

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        while (reason := self.session.stop_reason()) is None:
            self._serve_once()
            if not self.validator.busy:
                counts = self._worker_counts()
                if self.session.validation_due():
                    self.validator.request(to_validate=True, workers=counts)
                elif self.session.save_due():
                    self.validator.request(to_validate=False, workers=counts)
        return reason

    def _serve_once(self) -> None:
        connections = {w.connection: w for w in self.workers.values()}
        ready = wait([*connections, self.validator.connection], POLL_SECONDS)
        for connection in ready:
            if connection is self.validator.connection:
                self.validator.receive()
            else:
                assert isinstance(connection, Connection)
                self._receive(connections[connection])
            if self.session.stop_reason():
                return  # no push is applied past a limit

    def _receive(self, worker: WorkerHandle) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        match message:
            case Ready():
                self._fetch(worker, 0, batches_before=worker.batches)
                for slot in range(1, len(worker.slots)):
                    self._fetch(worker, slot)
            case Push():
                worker.deaths = 0
                worker.batches += message.num_batches
                used = worker.slots[message.slot]
                reply = self.session.exchange(message, used.mailbox, used.landing)
                self._give_task(worker, message.slot, reply.versions)
            case WriteBack():
                self.session.server.write_back(worker.index, worker.slots[0].landing)
                self._send(worker, WrittenBack())
            case Failure():
                worker.last_words = message.text

    def _fetch(self, worker: WorkerHandle, slot: int, batches_before: int | None = None) -> None:
        landing = worker.slots[slot].landing
        versions = self.session.fetch(worker.index, landing, batches_before, slot)
        self._give_task(worker, slot, versions)

    def _give_task(self, worker: WorkerHandle, slot: int, versions: tuple[int, ...]) -> None:
        window = self.session.next_window(worker.index, slot)
        if not window:
            worker.idle.add(slot)
            return
        worker.idle.discard(slot)
        self._send(worker, Task(window, versions, slot))

    def _send(self, worker: WorkerHandle, message: Task | WrittenBack) -> None:
        with contextlib.suppress(OSError):  # if it has died, that is what its pipe will say last
            worker.connection.send(message)

    def _replace(self, worker: WorkerHandle) -> None:
        """Start a replacement for a worker that died; its windows go to whoever draws next."""
        self.session.cursor.give_back(worker.index)
        worker.idle.clear()
        worker.connection.close()
        worker.process.join()
        self._log_death(worker)
        worker.deaths += 1
        if worker.deaths > self.session.config.asynchronous.max_restarts:
            self._give_up(worker)
        else:
            process, connection = self._start(worker.index, worker.slots, worker.batches)
            worker.process, worker.connection = process, connection
        for other in self.workers.values():
            for slot in sorted(other.idle):  # the epochs had ended, but for what came back
                self._fetch(other, slot)

    def _log_death(self, worker: WorkerHandle) -> None:
        session = self.session
        cause = cause_of_death(session.run, worker.index, worker.process, worker.last_words)
        session.reporter.worker(worker.index, f"was {cause}", session.clocks())

    def _give_up(self, worker: WorkerHandle) -> None:
        del self.workers[worker.index]
        clocks = self.session.clocks()
        self.session.reporter.worker(worker.index, "is not started again", clocks)
        if not self.workers:
            cause = (worker.last_words.strip().splitlines() or ["killed"])[-1]
            raise TrainingError(
                f"no worker is left; the last one ended with: {cause}",
                where=self.session.run.logs,
                remedy="the state is saved; remove the cause and run the same command again",
            )

    def _worker_counts(self) -> dict[int, dict[str, int]]:
        return {w.index: {"batches": w.batches} for w in self.workers.values()}

    def stop_workers(self) -> None:
        """End the worker processes at once; windows that were not pushed will be drawn again."""
        for worker in self.workers.values():
            worker.process.kill()
        for worker in self.workers.values():
            worker.process.join()
            worker.connection.close()

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        self.stop_workers()
        self.validator.finish(self._worker_counts(), validate=validate)

    def close(self) -> None:
        """End all processes that are still there, whatever has happened."""
        self.stop_workers()
        self.validator.stop()

    def validate_restored(self) -> None:
        """Make up for the validation that the resumed checkpoint was saved for."""
        self.validator.request(to_validate=True, workers=self._worker_counts())
