"""Synchronous workers simulated on one device: real gradients, virtual time.

What asynchronous simulations are compared with, under the same costs. All workers compute on the
same parameters and wait for the slowest; the sum of their gradients makes one update. So N
workers with delay τ learn what one worker with delay N·τ does, and only the time has to be told.
"""

from __future__ import annotations

import dataclasses

from nmtasync.training.asynchronous.in_process import InProcessDriver
from nmtasync.training.session import DriverState, Session
from nmtasync.training.simulation.clock import VirtualClock
from nmtasync.training.simulation.cost_model import CostModel


class SimulatedSynchronousDriver(InProcessDriver):
    """Runs simulated synchronous workers to the end, round by round.

    A round takes as long as its slowest worker computes, plus `CostModel.reduction_seconds`.

    Args:
        session: The run; its clock is `clock`.
        clock: The virtual time.
    """

    def __init__(self, session: Session, clock: VirtualClock) -> None:
        super().__init__(session, num_workers=1)
        self.clock = clock
        self.costs = CostModel(session.config, self.corpus, session.server.size)
        self.ranks = range(len(self.costs.workers))

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        self.fetch(0)
        while (reason := self.session.stop_reason()) is None:
            self._play_round()
            self.save_if_due()
        return reason

    def _play_round(self) -> None:
        """Let all workers make one update together, or time run out before."""
        cursor, reporter = self.session.cursor, self.session.reporter
        windows = [self.session.next_window(rank) for rank in self.ranks]
        busy = [sum(self.costs.compute_seconds(rank, windows[rank])) for rank in self.ranks]
        exchanging = self.costs.reduction_seconds()
        if not self.clock.advance(self.clock.seconds + max(busy) + exchanging):
            for rank in self.ranks:
                cursor.give_back(rank)
            return
        for rank in self.ranks[1:]:
            cursor.finish(rank)
            reporter.computed(rank, float(busy[rank]))
        together = [batch for window in windows for batch in window]
        self.push(0, together, compute_seconds=float(busy[0]), exchange_seconds=float(exchanging))

    def state(self) -> DriverState:
        """Keep the time, too; between rounds nothing is under way."""
        return dataclasses.replace(super().state(), virtual_seconds=self.clock.seconds)
