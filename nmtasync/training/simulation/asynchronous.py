"""Several workers simulated on one device: real gradients, virtual time.

Who fetches and pushes when follows from speeds, costs and failures alone, so that the same
settings give the same parameters, bit for bit on a CPU, and the staleness of a schedule can be
told exactly.
"""

from __future__ import annotations

import dataclasses
import heapq
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Any

from torch import Tensor

from nmtasync.config.simulation import parse_failures, parse_speeds
from nmtasync.data.cursor import AssignedBatch
from nmtasync.errors import TrainingError
from nmtasync.training.asynchronous.in_process import InProcessDriver, WorkerParts, replica_name
from nmtasync.training.session import Session
from nmtasync.training.simulation.clock import Timeline, VirtualClock
from nmtasync.training.simulation.cost_model import CostModel


class Event(IntEnum):
    """What happens at a moment. At the same moment, in this order, and then by worker."""

    PUSH = 0
    DEATH = 1
    RETURN = 2


@dataclass(frozen=True)
class Flight:
    """A window of a worker, from the fetch of its parameters until its push arrives.

    Attributes:
        slot: In which slot of the worker.
        window: What is computed.
        compute_seconds: For how long.
        exchange_seconds: How long the parameters and the push travel.
        idle_seconds: For how long the worker has nothing to compute before.
    """

    slot: int
    window: list[AssignedBatch]
    compute_seconds: Fraction
    exchange_seconds: Fraction
    idle_seconds: Fraction


class SimulatedDriver(InProcessDriver):
    """Runs simulated workers to the end.

    A worker fetches; the parameters travel to it; it computes; its push travels to the server,
    which takes it in no time, and its answer is the next fetch. With overlap it does so with two
    windows, one behind the other. A push counts when it has arrived: a worker that dies before
    has sent nothing, and its windows are drawn again. It returns as a new worker, whose local
    optimizer begins anew.

    Args:
        session: The run; its clock is `clock`.
        parts: What the workers are made of.
        clock: The virtual time.
    """

    def __init__(self, session: Session, parts: WorkerParts, clock: VirtualClock) -> None:
        options = session.config.simulation
        speeds = parse_speeds(options.speeds)
        super().__init__(session, parts, len(speeds))
        self.clock = clock
        self.costs = CostModel(session.config, parts.corpus, speeds, parts.flat.size)
        self.flights: list[list[Flight]] = [[] for _ in speeds]  # in the order of their pushes
        self.timelines = [self._timeline() for _ in speeds]
        self.dead: set[int] = set()
        self.events: list[tuple[Fraction, Event, int]] = []
        for outage in parse_failures(options.failures, len(speeds)):
            if outage.end is not None and outage.end <= clock.seconds:
                continue
            if outage.start <= clock.seconds:
                self.dead.add(outage.worker)
            else:
                self.events.append((outage.start, Event.DEATH, outage.worker))
            if outage.end is not None:
                self.events.append((outage.end, Event.RETURN, outage.worker))
        heapq.heapify(self.events)

    def train(self) -> str:
        """Train until there is a reason to stop; return it.

        Raises:
            TrainingError: No worker is left that could go on.
        """
        while (reason := self.session.stop_reason()) is None:
            self._send_off()
            if not self.events:
                raise TrainingError(
                    f"no worker is left after {self.clock():g} virtual seconds",
                    where="simulation.failures",
                    remedy="the state is saved; let a worker return and run the command again",
                )
            if self.clock.advance(self.events[0][0]):
                self._happen(*heapq.heappop(self.events)[1:])
        return reason

    def _timeline(self) -> Timeline:
        now = self.clock.seconds
        return Timeline(received=now, computed=now, sent=now)

    def _send_off(self) -> None:
        """Fill the free slots of the workers with their next windows."""
        for index, flights in enumerate(self.flights):
            taken = {flight.slot for flight in flights}
            for slot in range(self.num_slots):
                if slot in taken or index in self.dead:
                    continue
                window = self.session.next_window(index, slot)
                if window:
                    self._take_off(index, slot, window)

    def _take_off(self, index: int, slot: int, window: list[AssignedBatch]) -> None:
        if self.fetched[index][slot].versions != self.session.server.versions:
            self.fetch(index, slot)  # or the slot's last push has brought them
        pushes = self.workers[index].sequence + len(self.flights[index])
        receive, send = self.costs.receive_seconds, self.costs.send_seconds(pushes)
        compute = self.costs.compute_seconds(index, window)
        arrival, idle = self.timelines[index].book(self.clock.seconds, receive, compute, send)
        self.flights[index].append(Flight(slot, window, compute, receive + send, idle))
        heapq.heappush(self.events, (arrival, Event.PUSH, index))

    def _happen(self, event: Event, index: int) -> None:
        session = self.session
        match event:
            case Event.PUSH:
                flight = self.flights[index].pop(0)
                self.push(
                    index,
                    flight.window,
                    flight.slot,
                    compute_seconds=float(flight.compute_seconds),
                    exchange_seconds=float(flight.exchange_seconds),
                    idle_seconds=float(flight.idle_seconds) if self.num_slots > 1 else None,
                )
                self.save_if_due()
            case Event.DEATH:
                self.dead.add(index)
                session.cursor.give_back(index)
                self.flights[index].clear()
                self.events = [e for e in self.events if e[1:] != (Event.PUSH, index)]
                heapq.heapify(self.events)
                session.reporter.worker(index, "died", session.clocks())
            case Event.RETURN:
                self.dead.remove(index)
                self.replace(index)
                self.timelines[index] = self._timeline()
                session.reporter.worker(index, "returned", session.clocks())

    def own_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Keep what is under way: the parameters of each window, the timelines, the events."""
        vectors, flights = {}, []
        for worker, flight in ((w, f) for w, of_one in enumerate(self.flights) for f in of_one):
            fetched = self.fetched[worker][flight.slot]
            vectors[replica_name(worker, flight.slot)] = fetched.parameters
            flights.append(
                {
                    "worker": worker,
                    "slot": flight.slot,
                    "version": max(fetched.versions),
                    "batches": [[batch.epoch, batch.index] for batch in flight.window],
                    "progress": flight.window[0].progress,
                    "seconds": [
                        str(flight.compute_seconds),
                        str(flight.exchange_seconds),
                        str(flight.idle_seconds),
                    ],
                }
            )
        state = {
            "flights": flights,
            "timelines": [
                [str(line.received), str(line.computed), str(line.sent)] for line in self.timelines
            ],
            "dead": sorted(self.dead),
            "events": [[str(when), event.value, who] for when, event, who in sorted(self.events)],
        }
        return vectors, {"virtual_seconds": str(self.clock.seconds), "simulation": state}

    def restore(self, vectors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from a checkpoint: exactly, if it was simulated like this, and with these batches.

        Otherwise the workers begin new windows now, with what they have learnt themselves.
        """
        super().restore(vectors, state)
        if "simulation" not in state or not self._simulated_alike(state["config"]):
            return
        saved, num_shards = state["simulation"], len(self.session.server.shards)
        for flight in saved["flights"]:
            worker, slot = flight["worker"], flight["slot"]
            fetched = self.fetched[worker][slot]
            fetched.parameters.copy_(vectors[replica_name(worker, slot)])
            fetched.versions = (flight["version"],) * num_shards
            places = [(epoch, index) for epoch, index in flight["batches"]]
            window = self.session.cursor.draw_places(worker, places, slot, flight["progress"])
            self.flights[worker].append(Flight(slot, window, *map(Fraction, flight["seconds"])))
        self.timelines = [Timeline(*map(Fraction, line)) for line in saved["timelines"]]
        self.dead = set(saved["dead"])
        self.events = [(Fraction(when), Event(event), who) for when, event, who in saved["events"]]
        heapq.heapify(self.events)

    def _simulated_alike(self, trained: dict[str, dict[str, Any]]) -> bool:
        config = self.session.config
        return (
            trained["simulation"] == dataclasses.asdict(config.simulation)
            and trained["asynchronous"].get("overlap") == config.asynchronous.overlap
            and trained["training"]["seed"] == config.training.seed
            and trained["data"]["batch_tokens"] == config.data.batch_tokens
        )
