"""Several workers on the nodes of a cluster, and this process as their server.

The main process holds all shards. A task goes to a worker with the parameters as one object, which
Ray copies to the worker's node; header and payload of the push come back as two more. Each is
freed as soon as it has been read. A push counts when both have come whole, so a worker that dies,
or whose node goes away, has sent everything or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

import nmtasync
from nmtasync.errors import TrainingError
from nmtasync.machine.processes import POLL_SECONDS, keep_last_words
from nmtasync.server.transport import Slot
from nmtasync.training.asynchronous.worker_process import Task, WorkerSetup
from nmtasync.training.asynchronous.workers import Death, WorkerHandle, WorkersDriver
from nmtasync.training.cluster.actor import Placed, WorkerActor
from nmtasync.training.cluster.corpus import RunSource
from nmtasync.training.cluster.engine import Cluster
from nmtasync.training.cluster.payload import pack, unpack
from nmtasync.training.session import Session

_NO_ROOM_SECONDS = 20.0
"""When a worker has not been placed for so long, it is said."""

_LOOK_SECONDS = 5.0
"""How often this process asks whether its own node still belongs to the cluster."""


@dataclass
class ClusterWorker(WorkerHandle):
    """A worker that is, or shall be, somewhere on the cluster.

    Attributes:
        actor: Ray's handle of it.
        placed: Where it is; None while it waits for room.
        pending: What it is to return: the last part, and with it all parts.
        asked_at: When it was asked for, on the clock of the supervision; None if it has been told
            that there is no room.
        error: What its last call has come to, if that was an error.
        silent_seconds: For how long it had been silent when it was ended for that.
    """

    actor: Any = None
    placed: Placed | None = None
    pending: dict[Any, list[Any]] = field(default_factory=dict)
    asked_at: float | None = None
    error: Exception | None = None
    silent_seconds: float | None = None

    def expect(self, *parts: Any) -> None:
        """Note what a call will return."""
        self.pending[parts[-1]] = list(parts)


class RayDriver(WorkersDriver[ClusterWorker]):
    """Runs the workers of a cluster to the end.

    Args:
        session: The run.
        cluster: Where they are.
    """

    def __init__(self, session: Session, cluster: Cluster) -> None:
        self.cluster = cluster
        self.source = RunSource.of(session.run, cluster.node)
        self.slot = Slot.private(session.server.size, "cpu")  # of all: they are served in turn
        slots = [self.slot] * session.config.asynchronous.num_slots
        workers = [
            ClusterWorker(index, slots, session.start.batches_of(index))
            for index in range(cluster.wanted.number)
        ]
        self._next_look = 0.0
        super().__init__(session, workers)
        for worker in workers:
            self.start(worker)

    def start(self, worker: ClusterWorker) -> None:
        """Ask for an actor that is to be the worker."""
        index, session = worker.index, self.session
        sequence = session.server.last_sequences.get(index, 0)
        num_shards = len(session.server.shards)
        setup = WorkerSetup(index, session.parts, [], sequence, worker.batches, num_shards)
        arguments = setup, self.source, nmtasync.__version__
        worker.actor = self.cluster.start(WorkerActor, *arguments)
        worker.placed = worker.error = worker.silent_seconds = None
        worker.asked_at = self.supervision.now
        worker.expect(worker.actor.place.remote())

    def receive_what_is_there(self) -> None:
        """Take what has come of each worker, unless training is over meanwhile."""
        coming = {last: w for w in self.workers.values() for last in w.pending}
        if coming:
            for last in self.cluster.wait(list(coming), POLL_SECONDS):
                if last in coming[last].pending:  # else it has been replaced
                    self._receive(coming[last], last)
                if self.session.stop_reason():
                    return  # no push is applied past a limit
        if wait([self.validator.connection], 0 if coming else POLL_SECONDS):
            self.validator.receive()
        self._look_around()

    def _receive(self, worker: ClusterWorker, last: Any) -> None:
        try:
            message, *payload = self.cluster.get(worker.pending.pop(last))
        except self.cluster.ray.exceptions.RayError as error:
            worker.error = error
            self.replace(worker)
            return
        if isinstance(message, Placed):
            self._placed(worker, message)
            return
        self.heard(worker)
        if payload:
            num_values = message.push.num_values
            unpack(self.session.server.wire, payload.pop(), self.slot.mailbox, num_values)
        self.take(worker, message)

    def _placed(self, worker: ClusterWorker, placed: Placed) -> None:
        worker.placed, worker.asked_at = placed, None
        self.session.reporter.nodes[worker.index] = placed.name
        what = f"starts on {placed.name}"
        if (number := self.session.num_devices(worker.index)) > 1:
            what += f", with {number} devices"
        self.session.reporter.worker_event(worker.index, what, self.session.clocks())
        self.supervision.expect(worker.index)
        worker.expect(worker.actor.open.remote())

    def _look_around(self) -> None:
        """See that this node is there, and tell who has no room.

        Raises:
            TrainingError: It is not there: nothing that is computed elsewhere comes here any more.
        """
        if self.supervision.now < self._next_look:
            return
        self._next_look = self.supervision.now + _LOOK_SECONDS
        if not self.cluster.has_node(self.cluster.node):
            raise TrainingError(
                "the cluster can't be reached, or the main process's node has left it",
                where="asynchronous.driver = ray",
                remedy="the state is saved; see that Ray runs, and run the same command again",
            )
        for worker in self.workers.values():
            asked = worker.asked_at
            if asked is not None and self.supervision.now - asked > _NO_ROOM_SECONDS:
                worker.asked_at = None
                what = "waits until there is room for it on the cluster"
                self.session.reporter.worker_event(worker.index, what, self.session.clocks())

    def send(self, worker: ClusterWorker, message: Task) -> None:
        """Hand out a task, and the parameters that have just been put in the slot."""
        parameters = self.cluster.ray.put(pack(self.session.server.wire, self.slot.landing))
        call = worker.actor.compute.options(num_returns=2)
        worker.expect(*call.remote(message, parameters))

    def end_silent(self, worker: ClusterWorker) -> None:
        """End an actor that has been silent for too long."""
        worker.silent_seconds = self.supervision.limit

    def bury(self, worker: ClusterWorker) -> Death:
        """End the actor, and give up what it was to return."""
        worker.pending.clear()
        self.cluster.end(worker.actor)
        if worker.silent_seconds is not None:
            return Death(f"said nothing for {worker.silent_seconds:.0f} s and was ended")
        keep_last_words(self.session.run.logs / f"worker-{worker.index}.log", str(worker.error))
        if isinstance(worker.error, self.cluster.ray.exceptions.RayTaskError):
            last = str(worker.error).strip().splitlines()[-1]
            return Death(f"failed: {last}", last)
        if worker.placed and not self.cluster.has_node(worker.placed.node):
            return Death(f"was lost with its node, {worker.placed.name}")
        return Death("was lost: its process has ended, or its node")

    def stop_workers(self) -> None:
        """End all actors at once; windows that were not pushed will be drawn again."""
        for worker in self.workers.values():
            worker.pending.clear()
            self.cluster.end(worker.actor)
