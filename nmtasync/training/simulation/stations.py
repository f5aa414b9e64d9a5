"""What a window passes on its way, each station taking one at a time, in their order.

A simulated worker has three stations: it receives parameters, computes with them, and sends its
push. So with two windows under way, one is exchanged while the other is computed. All workers
share the server and, if they lie on other hosts than it, the network interface of its host: one
station for each direction, since it sends and receives at once. A transfer has the whole bandwidth
while it passes. If it shared it with others, all of them together would take as long. Interfaces
of other hosts hold up nothing: what passes them passes the server's, too, and alone.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from fractions import Fraction
from typing import Any

from nmtasync.data.cursor import AssignedBatch
from nmtasync.training.simulation.cost_model import CostModel
from nmtasync.untrusted import typed


@dataclass
class Timeline:
    """Until when each station of a worker is busy, in virtual seconds.

    Attributes:
        received: The way from the server.
        computed: The device.
        sent: The way to the server.
    """

    received: Fraction
    computed: Fraction
    sent: Fraction


@dataclass
class Shared:
    """Until when each station that all workers share is busy, in virtual seconds.

    Attributes:
        outgoing: The interface of the server's host, from it.
        incoming: The same, to it.
        served: The server.
    """

    outgoing: Fraction = Fraction(0)
    incoming: Fraction = Fraction(0)
    served: Fraction = Fraction(0)


class Stations:
    """All stations of a simulation. Calls must come in the order of their moments.

    Args:
        costs: How long things take.
        now: When the simulation begins.
    """

    def __init__(self, costs: CostModel, now: Fraction) -> None:
        self.costs = costs
        self.timelines = [Timeline(now, now, now) for _ in costs.workers]
        self.shared = Shared()

    def begin_anew(self, worker: int, now: Fraction) -> None:
        """Let a worker that has returned have nothing under way."""
        self.timelines[worker] = Timeline(now, now, now)

    def receive(self, worker: int, now: Fraction, batch: AssignedBatch) -> Fraction:
        """Let parameters travel to a worker.

        Args:
            worker: Who has been handed them.
            now: When.
            batch: The first that will be computed with them.

        Returns:
            For how long they travel, or wait for others in the network.
        """
        line, costs = self.timelines[worker], self.costs
        travel = costs.transfer(worker, costs.fetch_bytes(worker), "fetch", batch)
        if not costs.shares_network(worker):
            line.received = max(line.received, now) + travel.seconds
            return travel.seconds
        self.shared.outgoing = max(self.shared.outgoing, now) + travel.occupied
        line.received = self.shared.outgoing + travel.latency
        return line.received - now

    def compute(self, worker: int, seconds: Fraction) -> Fraction:
        """Let a worker compute on what it has received; return how long it was idle before."""
        line = self.timelines[worker]
        idle = max(line.received - line.computed, Fraction(0))
        line.computed += idle + seconds
        return idle

    def send(
        self, worker: int, now: Fraction, num_bytes: int, batch: AssignedBatch
    ) -> tuple[Fraction, Fraction]:
        """Let a push travel to the server.

        Args:
            worker: Whose.
            now: When it has been computed.
            num_bytes: Of its payload.
            batch: The first behind it.

        Returns:
            When it begins to travel, or to wait for others in the network, and when it arrives.
        """
        line = self.timelines[worker]
        travel = self.costs.transfer(worker, num_bytes, "push", batch)
        if not self.costs.shares_network(worker):
            start = max(line.sent, now)
            line.sent = start + travel.seconds
            return start, line.sent
        self.shared.incoming = max(self.shared.incoming, now) + travel.occupied
        line.sent = self.shared.incoming + travel.latency
        return now, line.sent

    def serve(self, now: Fraction) -> Fraction:
        """Let the server take a push that has arrived; return when it has taken it."""
        self.shared.served = max(self.shared.served, now) + self.costs.server_seconds
        return self.shared.served

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "timelines": [[str(each) for each in astuple(line)] for line in self.timelines],
            "shared": [str(each) for each in astuple(self.shared)],
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from what `to_json` returned; earlier versions had no shared stations.

        Raises:
            ValueError, KeyError: It is not what that returns.
        """
        self.timelines = [Timeline(*three_times(line)) for line in content["timelines"]]
        if len(self.timelines) != len(self.costs.workers):
            raise ValueError("there is a timeline for each worker")
        if "shared" in content:
            self.shared = Shared(*three_times(content["shared"]))


def three_times(content: Any) -> tuple[Fraction, Fraction, Fraction]:
    """Read three times, in seconds, of a checkpoint."""
    return typed(tuple[Fraction, Fraction, Fraction], content, "seconds")
