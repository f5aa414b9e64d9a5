"""The replay of a run from its log: the same pushes of the same workers, in the same order.

With the settings of the log, the parameters are those of the recorded run, bit for bit (on a CPU,
where its workers had one thread each). With others, for example another learning rate, it tells
what they would have done under just that schedule.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from nmtasync.checkpoints.state import TrainingState
from nmtasync.config.simulation import exact
from nmtasync.data.cursor import AssignedBatch
from nmtasync.errors import UserError
from nmtasync.training.asynchronous.in_process import (
    InProcessDriver,
    as_versions,
    replica_name,
)
from nmtasync.training.divergence import slowed
from nmtasync.training.reporting.exchange_log import (
    LoggedBatch,
    LoggedFetch,
    LoggedPush,
    LoggedRun,
)
from nmtasync.training.session import DriverState, Session
from nmtasync.training.simulation.clock import VirtualClock
from nmtasync.training.simulation.recording import RecordedRun
from nmtasync.untrusted import typed


class ReplayDriver(InProcessDriver):
    """Repeats a recorded run to its end, or to a limit of this one.

    Args:
        session: The run; its clock is `clock`.
        clock: Virtual time; it shows the recorded one.
        recording: The log.
        same_settings: Whether the settings are those of the log, so that its versions must come
            out.
    """

    def __init__(
        self,
        session: Session,
        clock: VirtualClock,
        recording: RecordedRun,
        same_settings: bool,
    ) -> None:
        self.recording, self.num_done = recording, 0
        super().__init__(session, recording.num_workers)
        self.clock = clock
        self.same_settings = same_settings
        self.begun: dict[int, list[AssignedBatch]] = {}  # windows that are computed in part

    def train(self) -> str:
        """Replay until there is a reason to stop; return it.

        Raises:
            UserError: The log does not fit RUN.
        """
        entries = self.recording.entries
        while (reason := self.session.stop_reason()) is None:
            if self.num_done == len(entries):
                return f"reached the end of {self.recording.path}"
            entry = entries[self.num_done]
            if not isinstance(entry, LoggedRun) and not self.clock.advance(exact(entry.seconds)):
                continue  # the clock has stopped at its end; `stop_reason` ends the loop
            if isinstance(entry, LoggedPush | LoggedBatch) and self._beyond_the_epochs(entry):
                return f"reached training.max_epochs = {self.session.config.training.max_epochs}"
            self.num_done += 1
            match entry:
                case LoggedRun():
                    self._slow_down(entry.rollbacks or 0)
                    self._renew_num_devices()
                case LoggedBatch():
                    self._repeat_batch(entry)
                case LoggedFetch():
                    self._give_up(entry.worker)
                    if entry.batches_before is not None:
                        self.replace(entry.worker, entry.batches_before)
                    self.fetch(entry.worker, entry.slot)
                case LoggedPush():
                    self._repeat(entry)
                    self.save_if_due()
        return reason

    def num_devices(self, index: int) -> int:
        """How many devices computed for each worker, by the start of training before this place."""
        done = self.recording.entries[: self.num_done]
        starts = [entry for entry in done if isinstance(entry, LoggedRun)]
        return starts[-1].num_devices if starts else self.session.num_devices(index)

    def _renew_num_devices(self) -> None:
        for worker in self.workers:
            worker.num_devices = self.num_devices(worker.index)

    def _slow_down(self, rollbacks: int) -> None:
        """Go on with the learning rates that the recorded run had after so many rollbacks."""
        session = self.session
        more = rollbacks - session.start.rollbacks
        session.start = dataclasses.replace(session.start, rollbacks=rollbacks)
        session.config = slowed(session.config, more)
        for shard in session.server.shards:
            shard.reconfigure(session.config)
        for worker in self.workers:
            worker.config = session.config
            if worker.local is not None:
                worker.local.config = session.config

    def _beyond_the_epochs(self, entry: LoggedPush | LoggedBatch) -> bool:
        limit = self.session.config.training.max_epochs
        return limit is not None and any(epoch >= limit for epoch, _ in entry.batches)

    def _draw(self, entry: LoggedPush | LoggedBatch, slot: int) -> list[AssignedBatch]:
        """Draw the batches of an entry's window, unless the worker has begun it already.

        A window that another worker had begun with one of them is given up: that worker died.
        """
        line = f"{self.recording.path}:{self.num_done}"
        if not self.fetched[entry.worker][slot].versions:
            raise UserError(f"is a push of worker {entry.worker} before any fetch", where=line)
        if self.workers[entry.worker].window is not None:
            if self.session.cursor.held(entry.worker, slot) != entry.batches:
                what = f"names other batches than worker {entry.worker} has begun"
                raise UserError(what, where=line, remedy="the log is damaged")
            return self.begun[entry.worker]
        for other in list(self.begun):
            if set(self.session.cursor.held(other)) & set(entry.batches):
                self._give_up(other)
        try:
            return self.session.cursor.draw_places(
                entry.worker, entry.batches, slot, entry.progress
            )
        except ValueError as error:
            raise UserError(str(error), where=line, remedy="the log is damaged") from None

    def _give_up(self, index: int) -> None:
        """Let go of a window that a worker had begun, if it had."""
        if self.workers[index].window is not None:
            self.session.cursor.give_back(index)
            self.workers[index].window = None

    def _repeat_batch(self, entry: LoggedBatch) -> None:
        """Let a worker compute up to a batch that changed its own shards."""
        worker = self.workers[entry.worker]
        window = self._draw(entry, slot=0)
        if worker.window is None:
            self.begun[entry.worker] = window
            self.begin_window(entry.worker, entry.progress)
            assert worker.window is not None
        for batch in window[len(worker.window.batches) : entry.number + 1]:
            worker.add(batch)

    def _repeat(self, entry: LoggedPush) -> None:
        line = f"{self.recording.path}:{self.num_done}"
        window = self._draw(entry, entry.slot)
        self.push(
            entry.worker,
            window,
            entry.slot,
            compute_seconds=entry.compute_seconds,
            exchange_seconds=entry.exchange_seconds,
            idle_seconds=entry.idle_seconds,
        )
        updates, recorded = self.session.server.updates, max(entry.versions)
        if self.same_settings and updates != recorded:
            raise UserError(
                f"comes to update {recorded}, but its replay to {updates}",
                where=line,
                remedy="the log is damaged, or of another version of nmtasync",
            )

    def state(self) -> DriverState:
        """Keep the position in the log, and the replicas that later pushes are computed on."""
        common = super().state()
        open_vectors, open_windows = self.open_windows()
        vectors, versions = {**common.vectors, **open_vectors}, []
        for worker, slots in enumerate(self.fetched):
            for slot, fetched in enumerate(slots):
                if fetched.versions:
                    vectors[replica_name(worker, slot)] = fetched.parameters
                    versions.append([worker, slot, fetched.versions])
        own = {
            "log": self.recording.digest,
            "num_done": self.num_done,
            "versions": versions,
            "open": open_windows,
            "begun": {
                worker: [[batch.epoch, batch.index] for batch in window]
                for worker, window in self.begun.items()
                if self.workers[worker].window is not None
            },
        }
        return DriverState(common.workers, vectors, self.clock.seconds, {"replay": own})

    def restore(self, vectors: dict[str, Tensor], state: TrainingState) -> None:
        """Go on from a checkpoint of this replay, exactly."""
        super().restore(vectors, state)
        saved, num_shards = state.driver["replay"], len(self.session.server.shards)
        self.num_done = typed(int, saved["num_done"], "num_done")
        self._renew_num_devices()
        for worker, slot, versions in typed(
            list[tuple[int, int, Any]], saved["versions"], "versions"
        ):
            fetched = self.fetched[worker][slot]
            fetched.parameters.copy_(vectors[replica_name(worker, slot)])
            fetched.versions = as_versions(versions, num_shards)
        begun = typed(dict[int, list[tuple[int, int]]], saved.get("begun", {}), "begun")
        for worker, drawn in begun.items():
            progress = typed(float, saved["open"][str(worker)]["progress"], "progress")
            self.begun[worker] = self.session.cursor.draw_places(worker, drawn, 0, progress)
        self.restore_open_windows(vectors, saved.get("open", {}))
        open_windows = {worker.index for worker in self.workers if worker.window is not None}
        if self.num_done > len(self.recording.entries) or open_windows != self.begun.keys():
            raise ValueError("it is no place in the log")
