"""Fetches, pushes and what happens in the middle of windows: done by the server, and logged.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from nmtasync.data.cursor import BatchCursor
from nmtasync.server.messages import Push, Reply
from nmtasync.server.server import Server
from nmtasync.training.reporting.exchange_log import ExchangeLog, LoggedBatch, LoggedFetch
from nmtasync.worker.window import ComputedWindow


class LoggedExchanges:
    """The server as workers meet it, with a log of all that they do with it.

    Args:
        server: The parameters.
        cursor: Knows which batches a worker computes.
        seconds: Tells the time since training began.
        log: Where to note it, if anywhere.
        count_bytes: Is told of each push how many bytes it takes between hosts, and how many the
            parameters that answer it.
    """

    def __init__(
        self,
        server: Server,
        cursor: BatchCursor,
        seconds: Callable[[], float],
        log: ExchangeLog | None,
        count_bytes: Callable[[int, int], None],
    ) -> None:
        self.server = server
        self.cursor = cursor
        self.seconds = seconds
        self.log = log
        self.count_bytes = count_bytes

    def fetch(
        self, worker: int, landing: Tensor, batches_before: int | None = None, slot: int = 0
    ) -> tuple[int, ...]:
        """Hand a worker the parameters without a push; return their versions.

        Args:
            worker: Who fetches.
            landing: [P], where it wants the parameters.
            batches_before: Of a worker that has just been started, whose local optimizer begins
                anew: the batches that its predecessors computed. None of one that goes on.
            slot: Of the worker, which the landing buffer belongs to.
        """
        versions = self.server.fetch(landing, worker, slot)
        if self.log:
            self.log.write(LoggedFetch(self.seconds(), worker, slot, versions, batches_before))
        return versions

    def push(
        self,
        computed: ComputedWindow,
        payload: Tensor,
        landing: Tensor,
        exchange_seconds: float | None,
        *,
        measure_update: bool,
    ) -> tuple[Reply, float]:
        """Let the server take the push of a window; arguments as of `Session.exchange`.

        Returns:
            The answer, and how long it took or is said to take, in seconds.
        """
        push, start = computed.push, time.perf_counter()
        reply = self.server.exchange(push, payload, landing, measure_update=measure_update)
        self._count_bytes(push)
        if exchange_seconds is None:
            exchange_seconds = time.perf_counter() - start
        if self.log:
            held = self.cursor.held(push.worker, push.slot)
            self.log.pushed(computed, held, reply.versions, exchange_seconds, self.seconds())
        return reply, exchange_seconds

    def _count_bytes(self, push: Push) -> None:
        wire, size = self.server.wire, self.server.exchanged_elements(push.worker)
        self.count_bytes(wire.num_bytes(size, push.num_values), wire.num_bytes(size))

    def push_own(self, push: Push, payload: Tensor, landing: Tensor, number: int) -> Reply:
        """Let a worker's own shards take the gradient of a batch in the middle of a window.

        Args:
            push: The header.
            payload: [P], of which these shards' slices count.
            landing: [P], where the worker wants these shards' parameters.
            number: Which batch of the window it is of, from 0 on.
        """
        reply = self.server.exchange(push, payload, landing, within_window=True)
        self._log_batch(push.worker, number, push.progress, push.sequence)
        return reply

    def write_back(self, worker: int, replica: Tensor, number: int, progress: float) -> None:
        """Let a worker's own shards be what its local step has made of them.

        Args:
            worker: Which one.
            replica: [P], its parameters.
            number: Of which batch of the window the step was made, from 0 on.
            progress: The share of the training that was over when the window was drawn.
        """
        self.server.write_back(worker, replica)
        self._log_batch(worker, number, progress)

    def _log_batch(
        self, worker: int, number: int, progress: float, sequence: int | None = None
    ) -> None:
        if self.log:
            held = self.cursor.held(worker)
            self.log.write(LoggedBatch(self.seconds(), worker, held, number, progress, sequence))
