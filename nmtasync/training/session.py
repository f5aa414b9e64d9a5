"""A training run as the main process sees it: server, data position, clocks, limits, history.

The drivers differ in how pushes reach `Session.exchange`; everything else about a run is here.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from nmtasync.checkpoints.history import ValidationHistory
from nmtasync.checkpoints.state import Numbers, TrainingState
from nmtasync.data.cursor import AssignedBatch, BatchCursor
from nmtasync.server.messages import Push, Reply
from nmtasync.server.server import Server
from nmtasync.training.delay import Delay
from nmtasync.training.divergence import Divergence
from nmtasync.training.driver import RunParts
from nmtasync.training.exchanges import LoggedExchanges
from nmtasync.training.limits import limit_reached, notice_given, share_done
from nmtasync.training.reporting.bad_batches import BadBatchFiles
from nmtasync.training.reporting.exchange_log import ExchangeLog
from nmtasync.training.reporting.reporter import Reporter
from nmtasync.worker.window import ComputedWindow, WindowFigures


@dataclass(frozen=True)
class DriverState:
    """What a driver adds to the state of training.

    Attributes:
        workers: The clocks of the workers that this process can ask, by their index.
        vectors: [P] by name, besides the server's.
        virtual_seconds: The exact time, where it is virtual.
        own: What only the driver itself reads again, for JSON, under its own name.
    """

    workers: dict[int, Numbers]
    vectors: dict[str, Tensor] = field(default_factory=dict)
    virtual_seconds: Fraction | None = None
    own: dict[str, Any] = field(default_factory=dict)


class Session:
    """One training run.

    Args:
        parts: What all processes of the run need to know.
        server: The parameters.
        cursor: The data position.
        reporter: Writes and shows figures and events.
        start: The state that training begins, or goes on, from.
        clock: Returns the time in seconds, from any zero on; a simulator brings its own.
        exchange_log: Where exchanges are noted, if anywhere.

    Attributes:
        exchanges: What workers and server do with each other, logged.
        history: The validations so far.
        totals: What has been done, over all resumes.
        delay: How large windows are.
        divergence: Whether training goes astray.
        stop_request: Why training shall end as soon as it can, if someone has asked for it.
        saving: Is set when someone has asked for a checkpoint now.
        saved_updates: The updates that the newest checkpoint has.
    """

    def __init__(
        self,
        parts: RunParts,
        server: Server,
        cursor: BatchCursor,
        reporter: Reporter,
        start: TrainingState,
        clock: Callable[[], float] = time.monotonic,
        exchange_log: ExchangeLog | None = None,
    ) -> None:
        self.parts = parts
        self.run = parts.run
        self.config = parts.config
        self.server = server
        self.cursor = cursor
        self.reporter = reporter
        self.start = start
        self.exchange_log = exchange_log
        self.exchanges = LoggedExchanges(
            server, cursor, lambda: self.seconds, exchange_log, self.count_bytes
        )
        metric = self.config.training.validate_metric
        self.history = ValidationHistory(self.run, metric, start.updates)
        self.totals = start.totals
        self.delay = Delay(self.config.asynchronous, server.num_workers)
        self.delay.restore(start.measured.get("delay", {}))
        self.divergence = Divergence.of(self.config, start)
        self.stop_request: str | None = None
        self.saving = threading.Event()
        self._clock = clock
        self._zero = clock() - start.time_seconds
        self._bad_batches = BadBatchFiles(self.run)
        self.saved_updates = server.updates

    @property
    def seconds(self) -> float:
        """Time since training began, over resumes."""
        return self._clock() - self._zero

    def next_window(self, worker: int, slot: int = 0) -> list[AssignedBatch]:
        """Draw the batches of a worker's next push; none where the epochs end."""
        delay = self.delay.choose(self.server.updates, self.server.measured.noise.words)
        return self.cursor.draw(worker, delay * self.num_devices(worker), slot, self.share_done())

    def num_devices(self, worker: int) -> int:
        """How many devices compute for a worker: all of its host, if hosts are workers."""
        num_devices = self.parts.num_devices
        return num_devices[worker % len(num_devices)]  # a rank draws under numbers beyond, too

    def share_done(self) -> float:
        """The share of the training that is over, by the limit that is nearest: from 0 to 1."""
        moment = self.seconds, self.server.updates, self.cursor.epochs_done
        return share_done(self.config.training, *moment) or 0.0

    def exchange(
        self,
        computed: ComputedWindow,
        payload: Tensor,
        landing: Tensor,
        exchange_seconds: float | None = None,
    ) -> Reply:
        """Let the server take a push, and count it.

        Args:
            computed: The push and its figures.
            payload: [P], the gradient.
            landing: [P], where the worker wants the parameters.
            exchange_seconds: The time that it is said to take; None for what it takes.

        Raises:
            DivergedError: Training has gone astray.
        """
        measure = self.reporter.wants_update_norm
        reply, exchange_seconds = self.exchanges.push(
            computed, payload, landing, exchange_seconds, measure_update=measure
        )
        self.cursor.finish(computed.push.worker, computed.push.slot)
        self.count(computed.figures, reply, exchange_seconds)
        return reply

    def exchange_own(self, push: Push, payload: Tensor, landing: Tensor, number: int) -> Reply:
        """As `LoggedExchanges.push_own`; its words are counted with the push of the window."""
        reply = self.exchanges.push_own(push, payload, landing, number)
        self.reporter.own_updated(push.worker, reply)
        return reply

    def count(self, window: WindowFigures, reply: Reply, exchange_seconds: float = 0.0) -> None:
        """Count and report a push that the shards have taken, or refused.

        Args:
            window: What was pushed.
            reply: The answer.
            exchange_seconds: How long the server took for it.

        Raises:
            DivergedError: Training has gone astray.
        """
        self.count_split(window.worker, window.split_batches)
        if reply.applied:
            self.divergence.see(window.cross_entropy / window.target_words)
            self.delay.see(window, exchange_seconds)
            self.totals = self.totals.and_a_push(
                window.num_batches, window.target_words, window.source_words, window.padding
            )
        elif window.overflowed:
            what = "skipped a gradient that float16 could not hold, and scales the next ones down"
            self.reporter.worker_event(window.worker, what, self.clocks())
        else:
            self.divergence.see_unusable()
            self.totals = self.totals.and_one_not_finite()
            kept = self._bad_batches.keep(window.bad_batches, self.server.updates)
            what = f"dropped a non-finite gradient{kept}"
            self.reporter.dropped(window.worker, what, self.clocks())
        self.reporter.pushed(window, reply, exchange_seconds, self.clocks())
        self.divergence.judge(self.run.root, self.reporter.display.message)

    def count_bytes(self, sent: int, received: int) -> None:
        """Count a push and its answer, in bytes; of synchronous workers none are counted."""
        synchronous = self.config.asynchronous.driver == "synchronous"
        if not (synchronous or self.config.simulation.synchronous):
            self.totals = self.totals.and_bytes(sent, received)
            self.reporter.transferred(sent, received)

    def count_split(self, worker: int, number: int) -> None:
        """Count batches that a worker has computed in parts."""
        self.totals = self.totals.and_split(number)
        self.reporter.split(worker, number, self.clocks())

    def clocks(self) -> dict[str, Any]:
        """The clocks that every line of the log carries."""
        return {
            "time_seconds": round(self.seconds, 3),
            "batches": self.totals.batches,
            "updates": self.server.updates,
            "epoch": round(self.cursor.epochs_done, 4),
        }

    def request_stop(self, reason: str) -> None:
        """Let training end as soon as it can, with this reason."""
        self.stop_request = reason

    def stop_reason(self) -> str | None:
        """Return why training is over, or None while it is not."""
        self.stop_request = self.stop_request or notice_given(self.config.training)
        return self.stop_request or limit_reached(
            self.config.training,
            self.seconds,
            self.server.updates,
            exhausted=self.cursor.exhausted,
            num_since_best=self.history.num_since_best,
        )

    @property
    def unsaved(self) -> bool:
        """Whether there are updates that no checkpoint has."""
        return self.server.updates > self.saved_updates

    def state(self, driver: DriverState, *, to_validate: bool) -> TrainingState:
        """Describe this moment, for a checkpoint; the vectors are beside it.

        Args:
            driver: What the driver adds.
            to_validate: Whether it will be validated; a resumed run makes up for it if not.
        """
        clocks = self.clocks()
        self.server.measured.noise.give_up_cut_pair()
        return dataclasses.replace(
            self.start,  # where it came from, and its vocabulary
            config=self.config,
            time_seconds=clocks["time_seconds"],
            updates=self.server.updates,
            epoch=clocks["epoch"],
            totals=self.totals,
            cursor=self.cursor.state(),
            versions=self.server.versions,
            rule=self.server.numbers(),
            last_sequences=dict(self.server.last_sequences),
            workers=driver.workers,
            to_validate=to_validate,
            exchange_log_bytes=self.exchange_log.length() if self.exchange_log else None,
            virtual_seconds=driver.virtual_seconds,
            measured={
                **self.server.measured.to_json(),
                "delay": self.delay.to_json(),
                "divergence": self.divergence.to_json(),
            },
            driver=driver.own,
        )


def restore_server(server: Server, vectors: dict[str, Tensor], state: TrainingState) -> None:
    """Let the server go on from what a checkpoint, or a snapshot in memory, holds.

    Args:
        server: The server.
        vectors: [P] by name.
        state: What belongs to them.
    """
    measured = state.measured
    if measured:  # earlier versions had no words in it
        measured = {"seen_words": float(state.totals.target_words), **measured}
    server.restore(vectors, state.versions, state.last_sequences, state.rule, measured)
