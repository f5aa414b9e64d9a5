"""Several workers simulated on one device: real gradients, virtual time.

Who fetches and pushes when follows from speeds, costs and failures alone, so that the same
settings give the same parameters, bit for bit on a CPU, and the staleness of a schedule can be
told exactly. Times are fractions, so that ties are ties. A checkpoint keeps all that is under way.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Any

from torch import Tensor

from nmtasync.checkpoints.state import TrainingState
from nmtasync.config.schema import Config
from nmtasync.config.simulation import exact, parse_failures
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.epochs import same_batches
from nmtasync.errors import TrainingError
from nmtasync.training.asynchronous.in_process import (
    InProcessDriver,
    as_versions,
    replica_name,
)
from nmtasync.training.session import DriverState, Session
from nmtasync.training.simulation.chance import until_failure
from nmtasync.training.simulation.clock import VirtualClock
from nmtasync.training.simulation.cost_model import CostModel
from nmtasync.training.simulation.stations import Stations, three_times
from nmtasync.untrusted import Integer, typed


class Event(IntEnum):
    """Kinds of events. Simultaneous events happen in this order, then by worker.

    A window has been computed, and its push sets out (SEND); it has arrived, and waits for the
    server (ARRIVAL), which has taken it (PUSH).
    """

    SEND = -3
    ARRIVAL = -2
    BATCH = -1
    PUSH = 0
    DEATH = 1
    RETURN = 2


_ENDS_OF_WINDOWS = (Event.SEND, Event.ARRIVAL, Event.PUSH)
"""Of each window that is under way, one of these is to come."""


@dataclass
class Window:
    """A window of a worker, from the fetch of its parameters until the server has taken its push.

    Attributes:
        slot: In which slot of the worker.
        batches: What is computed.
        compute_seconds: For how long.
        receive_seconds: How long the parameters travel, or wait on their way.
        idle_seconds: For how long the worker has nothing to compute before.
        push_bytes: Of its push, which has not set out yet; None if it has.
        sent: When it has; None if it has not.
    """

    slot: int
    batches: list[AssignedBatch]
    compute_seconds: Fraction
    receive_seconds: Fraction
    idle_seconds: Fraction
    push_bytes: int | None = None
    sent: Fraction | None = None


class SimulatedDriver(InProcessDriver):
    """Runs simulated workers to the end.

    A worker fetches; the parameters travel to it; it computes; its push travels to the server,
    which takes it, and its answer is the next fetch. With overlap it does so with two
    windows, one behind the other. A push counts when it has been taken: a worker that dies before
    has sent nothing, and its windows are drawn again. It returns as a new worker, whose local
    optimizer begins anew. Where single batches change the worker's own shards, they do so at the
    moment when they have been computed, and stay when it dies after that.

    Args:
        session: The run; its clock is `clock`.
        clock: The virtual time.
    """

    def __init__(self, session: Session, clock: VirtualClock) -> None:
        server, options = session.server, session.config.simulation
        super().__init__(session, server.num_workers)
        self.clock = clock
        exchanged = [server.exchanged_elements(worker.index) for worker in self.workers]
        self.costs = CostModel(session.config, self.corpus, server.size, exchanged)
        self.stations = Stations(self.costs, clock.seconds)
        self.windows: list[list[Window]] = [
            [] for _ in self.workers
        ]  # in the order of their pushes
        self.dead: set[int] = set()
        self.events: list[tuple[Fraction, Event, int]] = []
        for outage in parse_failures(options.failures, self.costs.hosts):
            if outage.end is not None and outage.end <= clock.seconds:
                continue
            if outage.start <= clock.seconds:
                self.dead.add(outage.worker)
            else:
                self.events.append((outage.start, Event.DEATH, outage.worker))
            if outage.end is not None:
                self.events.append((outage.end, Event.RETURN, outage.worker))
        for worker in self.workers:
            self._draw_failure(worker.index)
        heapq.heapify(self.events)

    def train(self) -> str:
        """Train until there is a reason to stop; return it.

        Raises:
            TrainingError: No worker is left that could go on.
        """
        while (reason := self.session.stop_reason()) is None:
            self._fill_slots()
            if not self.events:
                raise TrainingError(
                    f"no worker is left after {self.clock():g} virtual seconds",
                    where="simulation.failures",
                    remedy="the state is saved; let a worker return and run the command again",
                )
            if self.clock.advance(self.events[0][0]):
                self._handle(*heapq.heappop(self.events)[1:])
        return reason

    def _draw_failure(self, worker: int) -> None:
        """Let the host of a worker that begins fail some time, alike for all workers on it."""
        options, host = self.session.config.simulation, self.costs.hosts[worker]
        if options.host_failure_seconds is None or not self.costs.shares_network(worker):
            return
        now = self.clock.seconds
        death = now + until_failure(options.host_failure_seconds, self.costs.seed, host, now)
        heapq.heappush(self.events, (death, Event.DEATH, worker))
        returned = death + exact(options.host_outage_seconds)
        heapq.heappush(self.events, (returned, Event.RETURN, worker))

    def _fill_slots(self) -> None:
        """Let the workers begin their next windows in the slots that are free."""
        for index, windows in enumerate(self.windows):
            taken = {window.slot for window in windows}
            for slot in range(self.num_slots):
                if slot in taken or index in self.dead:
                    continue
                batches = self.session.next_window(index, slot)
                if batches:
                    self._begin(index, slot, batches)
                else:  # it will fetch anew: what is written back has no version
                    self.fetched[index][slot].versions = ()

    def _begin(self, index: int, slot: int, batches: list[AssignedBatch]) -> None:
        if self.fetched[index][slot].versions != self.session.server.versions:
            self.fetch(index, slot)  # or the slot's last push has brought them
        pushes = self.workers[index].sequence + len(self.windows[index])
        receive = self.stations.receive(index, self.clock.seconds, batches[0])
        locally = self.workers[index].local_batches_left > 0
        each = self.costs.compute_seconds(index, batches, locally=locally)
        compute = sum(each, Fraction(0))
        idle = self.stations.compute(index, compute)
        size = self.costs.push_bytes(index, pushes)
        self.windows[index].append(Window(slot, batches, compute, receive, idle, size))
        computed = self.stations.timelines[index].computed
        heapq.heappush(self.events, (computed, Event.SEND, index))
        if self.by_batch:
            self.begin_window(index, batches[0].progress)
            moment = computed - compute
            for seconds in each:
                moment += seconds
                heapq.heappush(self.events, (moment, Event.BATCH, index))

    def _handle(self, event: Event, index: int) -> None:
        session, now = self.session, self.clock.seconds
        match event:
            case Event.SEND:
                self._send(index)
            case Event.ARRIVAL:
                heapq.heappush(self.events, (self.stations.serve(now), Event.PUSH, index))
            case Event.BATCH:
                worker, (window,) = self.workers[index], self.windows[index]
                assert worker.window is not None
                worker.add(window.batches[len(worker.window.batches)])
            case Event.PUSH:
                window = self.windows[index].pop(0)
                exchanging = window.receive_seconds + (now - (window.sent or now))
                self.push(
                    index,
                    window.batches,
                    window.slot,
                    compute_seconds=float(window.compute_seconds),
                    exchange_seconds=float(exchanging),
                    idle_seconds=float(window.idle_seconds) if self.num_slots > 1 else None,
                )
                self.save_if_due()
            case Event.DEATH:
                self.dead.add(index)
                self.workers[index].window = None
                session.cursor.give_back(index)
                self.windows[index].clear()
                lost = {(event, index) for event in (*_ENDS_OF_WINDOWS, Event.BATCH)}
                self.events = [e for e in self.events if e[1:] not in lost]
                heapq.heapify(self.events)
                session.reporter.worker_event(index, "died", session.clocks())
            case Event.RETURN:
                self.dead.remove(index)
                self.replace(index)
                self.stations.begin_anew(index, now)
                self._draw_failure(index)
                session.reporter.worker_event(index, "returned", session.clocks())

    def _send(self, index: int) -> None:
        """Let the push of a worker's oldest window that is still with it set out."""
        window = next(w for w in self.windows[index] if w.push_bytes is not None)
        assert window.push_bytes is not None
        begin = self.clock.seconds, window.push_bytes, window.batches[0]
        window.sent, arrival = self.stations.send(index, *begin)
        window.push_bytes = None
        event = Event.ARRIVAL if self.costs.server_seconds else Event.PUSH
        heapq.heappush(self.events, (arrival, event, index))

    def state(self) -> DriverState:
        """Keep what is under way, too: the windows and their parameters, the timelines, events."""
        common = super().state()
        open_vectors, open_windows = self.open_windows()
        vectors, windows = {**common.vectors, **open_vectors}, []
        for worker, window in ((w, one) for w, of_one in enumerate(self.windows) for one in of_one):
            fetched = self.fetched[worker][window.slot]
            vectors[replica_name(worker, window.slot)] = fetched.parameters
            seconds = window.compute_seconds, window.receive_seconds, window.idle_seconds
            windows.append(
                {
                    "worker": worker,
                    "slot": window.slot,
                    "versions": fetched.versions,
                    "batches": [[batch.epoch, batch.index] for batch in window.batches],
                    "progress": window.batches[0].progress,
                    "seconds": [str(each) for each in seconds],
                    "push_bytes": window.push_bytes,
                    "sent": None if window.sent is None else str(window.sent),
                }
            )
        own = {
            "flights": windows,
            **self.stations.to_json(),
            "open": open_windows,
            "dead": sorted(self.dead),
            "events": [[str(when), event.value, who] for when, event, who in sorted(self.events)],
        }
        return DriverState(common.workers, vectors, self.clock.seconds, {"simulation": own})

    def restore(self, vectors: dict[str, Tensor], state: TrainingState) -> None:
        """Resume; bit for bit if the checkpoint has the same [simulation], overlap, seed and size.

        Otherwise the workers begin new windows now, with what they have learnt themselves.

        Raises:
            ValueError, KeyError, IndexError: What the checkpoint says can't be.
        """
        super().restore(vectors, state)
        if "simulation" not in state.driver or not self._simulated_alike(state.config):
            return
        saved, num_shards = state.driver["simulation"], len(self.session.server.shards)
        for window in typed(list[dict[str, Any]], saved["flights"], "flights"):
            worker, slot = (typed(int, window[name], name) for name in ("worker", "slot"))
            fetched = self.fetched[worker][slot]
            fetched.parameters.copy_(vectors[replica_name(worker, slot)])
            fetched.versions = as_versions(window.get("versions") or window["version"], num_shards)
            places = typed(list[tuple[int, int]], window["batches"], "batches")
            progress = typed(float, window["progress"], "progress")
            batches = self.session.cursor.draw_places(worker, places, slot, progress)
            times = three_times(window["seconds"])
            self.windows[worker].append(Window(slot, batches, *times, *_on_its_way(window)))
        self.restore_open_windows(vectors, saved.get("open", {}))
        self.stations.restore(saved)
        self.dead = set(typed(list[int], saved["dead"], "dead"))
        events = typed(list[tuple[Fraction, Integer, int]], saved["events"], "events")
        self.events = [(when, Event(event), who) for when, event, who in events]
        heapq.heapify(self.events)
        _check_restored(self)

    def _simulated_alike(self, trained: Config) -> bool:
        config = self.session.config
        then, now = trained.asynchronous, config.asynchronous
        return (
            trained.simulation == config.simulation
            and then.overlap == now.overlap
            and then.hosts == now.hosts
            and then.own_shard == now.own_shard
            and then.local_write_back == now.local_write_back
            and (then.num_shards == now.num_shards or now.own_shard == "window")
            and same_batches(trained, config)
        )


def _check_restored(driver: SimulatedDriver) -> None:
    """See that what is under way and what is to come belong together.

    Raises:
        ValueError: They do not.
    """
    if any(
        worker >= len(driver.workers) for worker in (*driver.dead, *(e[2] for e in driver.events))
    ):
        raise ValueError("there is no such worker")
    for index, worker in enumerate(driver.workers):
        windows, own = driver.windows[index], sorted(e for e in driver.events if e[2] == index)
        alive = index not in driver.dead
        for _, event, _ in own:
            if event in (Event.DEATH, Event.RETURN):
                if alive is (event is Event.RETURN):
                    raise ValueError(f"worker {index} dies or returns twice")
                alive = not alive
        counts = Counter(event for _, event, _ in own)
        done = 0 if worker.window is None else len(worker.window.batches)
        batches = sum(len(window.batches) for window in windows) - done if driver.by_batch else 0
        waiting = [window.push_bytes is not None for window in windows]
        alike = counts[Event.SEND] == sum(waiting) and waiting == sorted(waiting)
        ends = sum(counts[event] for event in _ENDS_OF_WINDOWS)
        if ends != len(windows) or counts[Event.BATCH] != batches or not alike:
            raise ValueError(f"the windows of worker {index} are not those that will end")
        if not all(window.batches for window in windows) or (index in driver.dead and windows):
            raise ValueError(f"worker {index} can have no such window")


def _on_its_way(window: dict[str, Any]) -> tuple[int | None, Fraction | None]:
    """Read a window's `push_bytes` and `sent`; earlier versions kept neither."""
    size, sent = window.get("push_bytes"), window.get("sent")
    return (
        None if size is None else typed(int, size, "push_bytes"),
        None if sent is None else typed(Fraction, sent, "sent"),
    )
