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
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import TrainingError
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.training.cost_model import CostModel
from nmtasync.training.cursor import AssignedBatch
from nmtasync.training.in_process import InProcessDriver
from nmtasync.training.session import Session
from nmtasync.training.virtual_clock import VirtualClock


class Event(IntEnum):
    """What happens at a moment. At the same moment, in this order, and then by worker."""

    PUSH = 0
    DEATH = 1
    RETURN = 2


@dataclass(frozen=True)
class Flight:
    """What a worker is about until its push arrives.

    Attributes:
        window: What it computes.
        compute_seconds: For how long.
    """

    window: list[AssignedBatch]
    compute_seconds: Fraction


class SimulatedDriver(InProcessDriver):
    """Runs simulated workers to the end.

    A worker fetches; the parameters travel to it; it computes; its push travels to the server,
    which takes it in no time, and its answer is the next fetch. A push counts when it has
    arrived: a worker that dies before has sent nothing, and its window is drawn again. It
    returns as a new worker, whose local optimizer begins anew.

    Args:
        session: The run; its clock is `clock`.
        flat: The first worker's replica, on the device.
        corpus: The training corpus.
        device: Where everything is computed.
        vocabulary_sizes: Of source and target.
        clock: The virtual time.
    """

    def __init__(
        self,
        session: Session,
        flat: FlatModel[SequenceToSequence],
        corpus: ParallelShards,
        device: str,
        vocabulary_sizes: tuple[int, int],
        clock: VirtualClock,
    ) -> None:
        options = session.config.simulation
        speeds = parse_speeds(options.speeds)
        super().__init__(session, flat, corpus, device, vocabulary_sizes, len(speeds))
        self.clock = clock
        self.costs = CostModel(session.config, corpus, speeds, flat.size)
        self.flights: dict[int, Flight] = {}
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

    def _send_off(self) -> None:
        """Give each worker that has nothing to do its next window."""
        session = self.session
        for worker in self.workers:
            index = worker.index
            if index in self.dead or index in self.flights:
                continue
            window = session.next_window(index)
            if not window:
                continue
            if worker.versions != session.server.versions:  # or its last push has brought them
                self.fetch(index)
            compute_seconds = self.costs.compute_seconds(index, window)
            self.flights[index] = Flight(window, compute_seconds)
            arrival = self.clock.seconds + compute_seconds + 2 * self.costs.transfer_seconds
            heapq.heappush(self.events, (arrival, Event.PUSH, index))

    def _happen(self, event: Event, index: int) -> None:
        session = self.session
        match event:
            case Event.PUSH:
                flight = self.flights.pop(index)
                exchanging = 2 * self.costs.transfer_seconds
                self.push(index, flight.window, float(flight.compute_seconds), float(exchanging))
                self.save_if_due()
            case Event.DEATH:
                self.dead.add(index)
                session.cursor.give_back(index)
                if self.flights.pop(index, None):
                    self.events = [e for e in self.events if e[1:] != (Event.PUSH, index)]
                    heapq.heapify(self.events)
                session.reporter.worker(index, "died", session.clocks())
            case Event.RETURN:
                self.dead.remove(index)
                self.replace(index)
                session.reporter.worker(index, "returned", session.clocks())

    def own_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Keep what is under way: the replica that each worker has fetched, and the events."""
        vectors = {_replica(index): self.workers[index].flat.parameters for index in self.flights}
        flights = {
            str(index): {
                "version": max(self.workers[index].versions),
                "batches": [[batch.epoch, batch.index] for batch in flight.window],
                "progress": flight.window[0].progress,
                "compute_seconds": str(flight.compute_seconds),
            }
            for index, flight in sorted(self.flights.items())
        }
        state = {
            "flights": flights,
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
        for name, flight in saved["flights"].items():
            worker = self.workers[int(name)]
            worker.flat.parameters.copy_(vectors[_replica(worker.index)])
            worker.versions = (flight["version"],) * num_shards
            places = [(epoch, index) for epoch, index in flight["batches"]]
            window = self.session.cursor.draw_places(worker.index, places, flight["progress"])
            self.flights[worker.index] = Flight(window, Fraction(flight["compute_seconds"]))
        self.dead = set(saved["dead"])
        self.events = [(Fraction(when), Event(event), who) for when, event, who in saved["events"]]
        heapq.heapify(self.events)

    def _simulated_alike(self, trained: dict[str, dict[str, Any]]) -> bool:
        config = self.session.config
        return (
            trained["simulation"] == dataclasses.asdict(config.simulation)
            and trained["training"]["seed"] == config.training.seed
            and trained["data"]["batch_tokens"] == config.data.batch_tokens
        )


def _replica(index: int) -> str:
    return f"replica.{index}"
