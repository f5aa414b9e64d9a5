"""The driver of a cluster behind a slow network interface, which is made up.

What a host of the server's own would have: one interface that sends and receives at once, and each
way passes one payload after another, for its bytes by the bandwidth. All workers lie on other
hosts, wherever they are. A task goes out when its parameters have passed, a push is taken when it
has; until then the driver waits for other workers, or sleeps. What Ray itself takes comes on top.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nmtasync.training.asynchronous.worker_process import Task
from nmtasync.training.cluster.driver import ClusterWorker, RayDriver
from nmtasync.training.cluster.engine import Cluster
from nmtasync.training.cluster.payload import pack
from nmtasync.training.session import Session


@dataclass
class OneWay:
    """One direction of the interface.

    Attributes:
        bytes_per_second: Its bandwidth.
        busy_until: When the last payload has passed, by `time.monotonic`.
    """

    bytes_per_second: float
    busy_until: float = 0.0

    def passing(self, num_bytes: int) -> float:
        """Let a payload join the queue; return when it has passed."""
        begin = max(self.busy_until, time.monotonic())
        self.busy_until = begin + num_bytes / self.bytes_per_second
        return self.busy_until


@dataclass(frozen=True)
class ThrottledCluster(Cluster):
    """A cluster whose results come when they have passed the interface.

    Attributes:
        incoming: What they pass.
        arrivals: When those that have really come will have passed.
        departures: When tasks will have, the earliest first, and how to hand them out.
    """

    incoming: OneWay
    arrivals: dict[Any, float] = field(default_factory=dict)
    departures: deque[tuple[float, ClusterWorker, Task, Any]] = field(default_factory=deque)

    def wait(self, results: Sequence[Any], seconds: float) -> list[Any]:
        """Wait until a result has passed, or a task, but not for longer; return those results."""
        moments = [self.arrivals[each] for each in results if each in self.arrivals]
        moments += [departure[0] for departure in self.departures]
        now = time.monotonic()
        seconds = max(0.0, min([now + seconds, *moments]) - now)
        computing = [each for each in results if each not in self.arrivals]
        if computing:
            for result in super().wait(computing, seconds):
                num_bytes = getattr(self.ray.get(result), "nbytes", 0)
                self.arrivals[result] = self.incoming.passing(num_bytes)
        else:
            time.sleep(seconds)
        now = time.monotonic()
        passed = [each for each in results if self.arrivals.get(each, now + 1) <= now]
        return sorted(passed, key=self.arrivals.pop)


class ThrottledDriver(RayDriver):
    """Runs the workers of a cluster behind an interface of so many bytes a second."""

    cluster: ThrottledCluster

    def __init__(self, bytes_per_second: float, session: Session, cluster: Cluster) -> None:
        self.outgoing = OneWay(bytes_per_second)
        behind = cluster.ray, cluster.wanted, cluster.node, OneWay(bytes_per_second)
        super().__init__(session, ThrottledCluster(*behind))

    def send(self, worker: ClusterWorker, message: Task) -> None:
        """Keep the parameters as they are now, and a task with them until they have passed."""
        payload = pack(self.session.server.wire, self.slot.landing)
        parameters = self.cluster.ray.put(payload)
        moment = self.outgoing.passing(payload.nbytes)
        self.cluster.departures.append((moment, worker, message, parameters))

    def receive_what_is_there(self) -> None:
        """Hand out the tasks that have passed, and take what has come meanwhile."""
        departures = self.cluster.departures
        if departures and not any(worker.pending for worker in self.workers.values()):
            time.sleep(max(0.0, departures[0][0] - time.monotonic()))
        while departures and departures[0][0] <= time.monotonic():
            _, worker, message, parameters = departures.popleft()
            call = worker.actor.compute.options(num_returns=2)
            worker.expect(*call.remote(message, parameters))
        super().receive_what_is_there()
