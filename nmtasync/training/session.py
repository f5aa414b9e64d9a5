"""A training run as the main process sees it: server, data position, clocks, limits, history.

The drivers differ in how pushes reach `Session.exchange`; everything else about a run is here.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from nmtasync.checkpoints import store
from nmtasync.checkpoints.history import Validation, ValidationHistory
from nmtasync.checkpoints.store import Snapshot
from nmtasync.config.schema import Config
from nmtasync.data.cursor import AssignedBatch, BatchCursor
from nmtasync.errors import TrainingError
from nmtasync.optim.schedules import delay_at
from nmtasync.run_directory import RunDirectory
from nmtasync.server.messages import Push, Reply
from nmtasync.server.server import Server
from nmtasync.training.reporting.exchange_log import ExchangeLog
from nmtasync.training.reporting.reporter import Reporter

MAX_UNUSABLE_PUSHES = 25
"""So many pushes in a row whose gradient is not finite end the training."""


@dataclass
class Progress:
    """What has been done, over all resumes.

    Attributes:
        batches: Mini-batches, of all workers.
        pushes: Pushes that were applied.
        target_words: Target words behind them.
        source_words: Source words behind them.
    """

    batches: int = 0
    pushes: int = 0
    target_words: int = 0
    source_words: int = 0

    def add(self, push: Push) -> None:
        """Count an applied push."""
        self.batches += push.num_batches
        self.pushes += 1
        self.target_words += push.target_words
        self.source_words += push.source_words


class Session:
    """One training run.

    Args:
        run: The directory.
        config: The experiment.
        server: The parameters.
        cursor: The data position.
        history: The validations so far.
        reporter: Who tells the user.
        vocabulary_digest: Hash of RUN/vocab, for checkpoints.
        progress: What was done before.
        seconds_before: Time that training took before.
        clock: Tells the time in seconds, from any zero on; a simulator brings its own.
        exchange_log: Where exchanges are noted, if anywhere.
        initialised_from: Which checkpoint of another run this one began from, if any.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: Config,
        server: Server,
        cursor: BatchCursor,
        history: ValidationHistory,
        reporter: Reporter,
        vocabulary_digest: str,
        progress: Progress,
        seconds_before: float,
        clock: Callable[[], float] = time.monotonic,
        exchange_log: ExchangeLog | None = None,
        initialised_from: dict[str, str] | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.server = server
        self.cursor = cursor
        self.history = history
        self.reporter = reporter
        self.vocabulary_digest = vocabulary_digest
        self.progress = progress
        self.exchange_log = exchange_log
        self.initialised_from = initialised_from
        self.stop_request: str | None = None
        self._clock = clock
        self._start = clock() - seconds_before
        self._unusable_pushes = 0
        self._last_saved_updates = server.updates
        self._last_saved_seconds = seconds_before
        self._last_validated_updates = server.updates

    @property
    def seconds(self) -> float:
        """Time since training began, over resumes."""
        return self._clock() - self._start

    def next_window(self, worker: int, slot: int = 0) -> list[AssignedBatch]:
        """Draw the batches of a worker's next push; none where the epochs end."""
        delay = delay_at(self.server.updates, self.config.asynchronous)
        return self.cursor.draw(worker, delay, slot, self.share_done())

    def share_done(self) -> float:
        """The share of the training that is over, by the limit that is nearest: from 0 to 1."""
        limits = self.config.training
        shares = [0.0]
        if limits.max_minutes:
            shares.append(self.seconds / (60 * limits.max_minutes))
        if limits.max_updates:
            shares.append(self.server.updates / limits.max_updates)
        if limits.max_epochs:
            shares.append(self.cursor.epochs_done / limits.max_epochs)
        return min(1.0, max(shares))

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
        if self.exchange_log:
            self.exchange_log.fetched(worker, slot, versions, batches_before, self.seconds)
        return versions

    def exchange(
        self, push: Push, payload: Tensor, landing: Tensor, exchange_seconds: float | None = None
    ) -> Reply:
        """Let the server take a push, and count it.

        Args:
            push: The header.
            payload: [P], the gradient.
            landing: [P], where the worker wants the parameters.
            exchange_seconds: The time that it is said to take; None for what it takes.

        Raises:
            TrainingError: Too many pushes in a row could not be used.
        """
        start = time.perf_counter()
        measure = self.reporter.wants_update_norm
        reply = self.server.exchange(push, payload, landing, measure_update=measure)
        if exchange_seconds is None:
            exchange_seconds = time.perf_counter() - start
        if self.exchange_log:
            batches = self.cursor.held(push.worker, push.slot)
            self.exchange_log.pushed(push, batches, reply.versions, exchange_seconds, self.seconds)
        self.cursor.finish(push.worker, push.slot)
        self.count(push, reply, exchange_seconds)
        return reply

    def count(self, push: Push, reply: Reply, exchange_seconds: float = 0.0) -> None:
        """Count and report a push that the shards have taken, or refused.

        Args:
            push: The header.
            reply: The answer.
            exchange_seconds: How long the server took for it.

        Raises:
            TrainingError: Too many pushes in a row could not be used.
        """
        if reply.applied:
            self._unusable_pushes = 0
            self.progress.add(push)
        elif push.overflowed:
            what = "skipped a gradient that float16 could not hold, and scales the next ones down"
            self.reporter.worker(push.worker, what, self.clocks())
        else:
            self._count_unusable(push)
        self.reporter.pushed(push, reply, exchange_seconds, self.clocks())

    def _count_unusable(self, push: Push) -> None:
        self._unusable_pushes += 1
        self.reporter.worker(push.worker, "dropped a gradient that is not finite", self.clocks())
        if self._unusable_pushes >= MAX_UNUSABLE_PUSHES:
            raise TrainingError(
                f"training diverged: {self._unusable_pushes} gradients in a row are not finite",
                where=self.run.root,
                remedy="lower schedule.learning_rate or raise schedule.warmup_updates; "
                "the last checkpoint is kept",
            )

    def clocks(self) -> dict[str, Any]:
        """The clocks that every line of the log carries."""
        return {
            "time_seconds": round(self.seconds, 3),
            "batches": self.progress.batches,
            "updates": self.server.updates,
            "epoch": round(self.cursor.epochs_done, 4),
        }

    def stop_reason(self) -> str | None:
        """Say why training is over, or None while it is not."""
        limits = self.config.training
        if self.stop_request:
            return self.stop_request
        if limits.max_minutes is not None and self.seconds >= 60 * limits.max_minutes:
            return f"reached training.max_minutes = {limits.max_minutes:g}"
        if limits.max_updates is not None and self.server.updates >= limits.max_updates:
            return f"reached training.max_updates = {limits.max_updates}"
        if self.cursor.exhausted:
            return f"reached training.max_epochs = {limits.max_epochs}"
        if limits.patience is not None and self.history.num_since_best >= limits.patience:
            return f"no better validation for training.patience = {limits.patience} times"
        return None

    def validation_due(self) -> bool:
        """Whether a multiple of `training.validate_every` has been passed."""
        every = self.config.training.validate_every
        return self.server.updates // every > self._last_validated_updates // every

    @property
    def unsaved(self) -> bool:
        """Whether there are updates that no checkpoint has."""
        return self.server.updates > self._last_saved_updates

    def save_due(self) -> bool:
        """Whether the last checkpoint is older than `training.save_every_minutes`."""
        old = self.seconds - self._last_saved_seconds
        return self.unsaved and old >= 60 * self.config.training.save_every_minutes

    def snapshot(
        self, *, to_validate: bool, vectors: dict[str, Tensor], workers: dict[int, dict[str, int]]
    ) -> Snapshot:
        """Describe this moment, for a checkpoint.

        Args:
            to_validate: Whether it will be validated; a resumed run makes up for it if not.
            vectors: [P] by name: the server's, or a copy of them, and those of workers.
            workers: The clocks of the workers that this process can ask.
        """
        self._last_saved_seconds = self.seconds
        if to_validate:
            self._last_validated_updates = self.server.updates
        return Snapshot(vectors, self.state(to_validate=to_validate, workers=workers))

    def state(self, *, to_validate: bool, workers: dict[int, dict[str, int]]) -> dict[str, Any]:
        """Everything about this moment but the vectors; arguments as in `snapshot`."""
        return {
            **self.clocks(),
            "rule": self.server.counts(),
            "versions": list(self.server.versions),
            "to_validate": to_validate,
            "vocabulary": self.vocabulary_digest,
            "initialised_from": self.initialised_from,
            "cursor": self.cursor.state(),
            "progress": asdict(self.progress),
            "last_sequences": {str(k): v for k, v in self.server.last_sequences.items()},
            "workers": {str(k): v for k, v in workers.items()},
            "exchange_log_bytes": self.exchange_log.length() if self.exchange_log else None,
        }

    def rewind(self, state: dict[str, Any], vectors: dict[str, Tensor]) -> None:
        """Go back to an earlier moment, because what came after it is lost.

        Args:
            state: What `state` said then.
            vectors: [P] by name, a copy of the server's of then.
        """
        restore_server(self.server, vectors, state)
        self.cursor.restore(state["cursor"])
        self.progress = Progress(**state["progress"])

    def note_saved(self, updates: int) -> None:
        """Report a checkpoint that has been written, and delete old ones."""
        self._last_saved_updates = updates
        store.prune(self.run, self.config.training.keep_checkpoints)
        self.reporter.checkpoint(updates, self.clocks())

    def note_validated(self, validation: Validation) -> None:
        """Report a validation, and point `best` at its checkpoint if it is the best.

        It is noted last: a run that is killed before that validates again.
        """
        best = self.history.would_be_best(validation)
        if best:
            store.point(self.run, "best", validation.updates)
        self.history.add(validation)
        self.reporter.validated(validation, best, self.history.num_since_best, self.clocks())


def restore_server(server: Server, vectors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Let the server go on from what a checkpoint, or a snapshot in memory, holds.

    Args:
        server: The server.
        vectors: [P] by name.
        state: What `Session.state` said.
    """
    sequences = {int(worker): sequence for worker, sequence in state["last_sequences"].items()}
    server.restore(vectors, int(state["updates"]), sequences, state["rule"])
