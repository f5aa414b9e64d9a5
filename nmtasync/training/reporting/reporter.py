"""Reports of a training run: metrics.jsonl, TensorBoard and the display show the same figures."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch.utils.tensorboard.writer import SummaryWriter

from nmtasync.checkpoints.history import Validation
from nmtasync.checkpoints.state import Totals
from nmtasync.config.schema import TrainingConfig
from nmtasync.run_directory import RunDirectory, explain_write_errors
from nmtasync.server.messages import Reply
from nmtasync.server.noise_scale import NoiseScale
from nmtasync.training.divergence import MAX_ROLLBACKS
from nmtasync.training.limits import share_done
from nmtasync.training.reporting.appended_file import AppendedFile
from nmtasync.training.reporting.display import Display
from nmtasync.training.reporting.staleness import StalenessFigures
from nmtasync.worker.window import WindowFigures

Figures = dict[str, Any]


@dataclass
class Interval:
    """What has been pushed since the last line, which was written at `start` (seconds)."""

    start: float
    pushes: int = 0
    non_finite_pushes: int = 0
    split_batches: int = 0
    batches: int = 0
    updates: float = 0.0
    target_words: int = 0
    source_words: int = 0
    padding: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    cross_entropy: float = 0.0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    update_norm: float | None = None
    staleness: StalenessFigures = field(default_factory=StalenessFigures)

    def add(self, window: WindowFigures, reply: Reply) -> None:
        """Count an applied push."""
        self.pushes += 1
        self.batches += window.num_batches
        self.target_words += window.target_words
        self.source_words += window.source_words
        self.padding += window.padding
        self.cross_entropy += window.cross_entropy
        self.gradient_norm += window.gradient_norm
        self.updated(window.worker, reply)
        if reply.update_norm is not None:
            self.update_norm = reply.update_norm

    def updated(self, worker: int, reply: Reply) -> None:
        """Count what a push has changed; for some shards only, it is a part of an update."""
        self.staleness.add(worker, reply.staleness, reply.shards)
        if reply.learning_rate is not None:
            whole = reply.shards is None
            self.updates += 1.0 if whole else len(reply.staleness) / len(reply.versions)
            self.learning_rate = reply.learning_rate

    def figures(self, now: float) -> Figures:
        """Sum the interval up; there is no pace where no time has passed, virtual as it may be."""
        seconds = now - self.start
        words = self.source_words + self.target_words
        return {
            "loss": self.cross_entropy / self.target_words,
            "source_words_per_second": self.source_words / seconds if seconds else None,
            "target_words_per_second": self.target_words / seconds if seconds else None,
            "target_words_per_update": self.target_words / (self.updates or 1.0),
            "padding": self.padding / (words + self.padding),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "batches_per_push": self.batches / self.pushes,
            "non_finite_pushes": self.non_finite_pushes,
            "split_batches": self.split_batches,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm / self.pushes,
            "update_norm": self.update_norm,
            **self.staleness.figures(),
        }


@dataclass(frozen=True)
class TimeSpent:
    """Shares of a worker's time, from 0 to 1.

    Attributes:
        computing: Gradients.
        exchanging: Its pushes being applied, and the parameters copied to it, as far as it did not
            compute meanwhile.
        waiting: The rest: for its turn, for its process to start, for the end of a validation.
    """

    computing: float
    exchanging: float
    waiting: float

    @classmethod
    def of(cls, computing: float, exchanging: float) -> TimeSpent:
        """Turn measured or virtual shares into shares that sum to one."""
        computing = min(computing, 1.0)  # virtual workers may have begun before this process did
        exchanging = min(exchanging, 1.0 - computing)
        waiting = max(0.0, 1.0 - computing - exchanging)
        return cls(round(computing, 4), round(exchanging, 4), round(waiting, 4))


class Reporter:
    """Writes every figure to all places.

    Args:
        run: Whose `logs` directory to write to; lines are added to what is there.
        display: What the user sees.
        options: How often a line of training figures is written, and when training ends.
        updates: Where this run (re)starts, for TensorBoard.
        noise: Measures the noise of gradients.
        clock: Tells the time in seconds, from any zero on.

    Attributes:
        nodes: Of workers on other hosts: where each is, which the lines about it then have.
    """

    def __init__(
        self,
        run: RunDirectory,
        display: Display,
        options: TrainingConfig,
        updates: int,
        noise: NoiseScale,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.display = display
        self.noise = noise
        self.options = options
        self._metrics = AppendedFile(run.logs / "metrics.jsonl")
        with explain_write_errors(run.logs):
            self._board = SummaryWriter(str(run.logs), purge_step=updates)
        self.nodes: dict[int | str, str] = {}
        self._told: set[str] = set()
        self._clock = clock
        self._begin = clock()
        self._interval = Interval(self._begin)
        self._computed: Counter[int] = Counter()
        self._exchanged: Counter[int] = Counter()
        self._have_split: set[int] = set()
        self._last_exchange: dict[tuple[int, int], float] = {}

    @property
    def wants_update_norm(self) -> bool:
        """Whether the next update should be measured: one in each interval, for it takes time."""
        return self._interval.update_norm is None

    def pushed(
        self, window: WindowFigures, reply: Reply, exchange_seconds: float, clocks: Figures
    ) -> None:
        """Note a push, and write a line when it is time.

        Args:
            window: What was pushed.
            reply: What the server made of it.
            exchange_seconds: How long the server took for it.
            clocks: When.
        """
        self.computed(window.worker, window.compute_seconds)
        if window.idle_seconds is not None:  # of an exchange, what was not hidden by computing
            slot = (window.worker, window.slot)
            before = self._last_exchange.get(slot, 0.0)
            self._last_exchange[slot] = exchange_seconds
            exchange_seconds = min(before, window.idle_seconds)
        self._exchanged.update({window.worker: exchange_seconds})
        if reply.applied:
            self._interval.add(window, reply)
        seconds = self._clock() - self._interval.start
        if seconds >= self.options.log_every_seconds and seconds > 0:
            self.flush(clocks)

    def own_updated(self, worker: int, reply: Reply) -> None:
        """Note what became of a push for a worker's own shards, in the middle of a window."""
        if reply.applied:
            self._interval.updated(worker, reply)

    def transferred(self, sent: int, received: int) -> None:
        """Note the payloads of a push and of its answer, in bytes."""
        self._interval.bytes_sent += sent
        self._interval.bytes_received += received

    def computed(self, worker: int, seconds: float) -> None:
        """Note for how long a worker has computed."""
        self._computed.update({worker: seconds})

    def flush(self, clocks: Figures) -> None:
        """Write the line of the interval that has not been written yet."""
        now = self._clock()
        interval, self._interval = self._interval, Interval(now)
        if not interval.pushes:  # what was dropped is told in the next line
            self._interval.non_finite_pushes = interval.non_finite_pushes
            self._interval.split_batches = interval.split_batches
            self.transferred(interval.bytes_sent, interval.bytes_received)
        else:
            figures = {
                **interval.figures(now),
                "noise_scale": self.noise.words,
                "noise_scale_by_worker": self.noise.words_by_worker(),
            }
            self._write("train", figures, clocks)
            self._draw_staleness(figures["staleness_histogram"], clocks["updates"])
            moment = (clocks[name] for name in ("time_seconds", "updates", "epoch"))
            self.display.training(figures, clocks, share_done(self.options, *moment))

    def validated(
        self, validation: Validation, best: bool, num_since_best: int, clocks: Figures
    ) -> None:
        """Note a validation; its own clocks are those of the moment that it measured."""
        now = clocks["time_seconds"]
        measured = {"updates": validation.updates, "time_seconds": validation.time_seconds}
        figures = {"cross_entropy": validation.cross_entropy, "bleu": validation.bleu, "best": best}
        self._write("valid", figures, {**clocks, **measured})
        self.display.validation(validation, best, num_since_best, now)

    def checkpoint(self, updates: int, clocks: Figures) -> None:
        """Note a checkpoint."""
        self._write("checkpoint", {"checkpoint": updates}, clocks)

    def save_failed(self, cause: str, clocks: Figures) -> None:
        """Note that no checkpoint could be written, and that training goes on."""
        self._write("failed-save", {"what": cause}, clocks)
        self.display.message(f"not saved: {cause}; training goes on and tries again")

    def worker_event(self, worker: int | str, what: str, clocks: Figures) -> None:
        """Note what happened to a worker, by its number, or to the process named "validator"."""
        node = {"node": self.nodes[worker]} if worker in self.nodes else {}
        self._write("worker", {"worker": worker, "what": what, **node}, clocks)
        self.display.message(f"{worker if isinstance(worker, str) else f'worker {worker}'} {what}")

    def dropped(self, worker: int, what: str, clocks: Figures) -> None:
        """Note a push that was dropped, since it was not finite; arguments of `worker_event`."""
        self._interval.non_finite_pushes += 1
        self.worker_event(worker, what, clocks)

    def split(self, worker: int, number: int, clocks: Figures) -> None:
        """Note batches that a worker has computed in parts; of each worker it is told once."""
        self._interval.split_batches += number
        if number and worker not in self._have_split:
            self._have_split.add(worker)
            what = "has too little memory for a batch, and computes it in parts"
            self.worker_event(worker, what, clocks)

    def rolled_back(self, reason: str, updates: int, rollbacks: int, clocks: Figures) -> None:
        """Note that training goes back to the checkpoint of `updates`."""
        self.flush(clocks)
        figures = {"reason": reason, "checkpoint": updates, "rollbacks": rollbacks}
        self._write("rollback", figures, clocks)
        self.display.message(
            f"{reason}; going back to update {updates:,} with half the learning rate "
            f"(rollback {rollbacks} of {MAX_ROLLBACKS})"
        )

    def end(
        self, reason: str, workers: dict[int, TimeSpent], totals: Totals, clocks: Figures
    ) -> None:
        """Note the end of training, how the workers had spent their time, and what went wrong."""
        shares = {worker: asdict(spent) for worker, spent in workers.items()}
        names = ("bytes_sent", "bytes_received", "non_finite_pushes", "split_batches")
        sums = {name: getattr(totals, name) for name in names}
        figures = {"reason": reason, "workers": shares, "padding": totals.padding_share, **sums}
        if self.nodes:
            figures["nodes"] = dict(self.nodes)
        self._write("end", figures, clocks)

    def time_spent(self) -> dict[int, TimeSpent]:
        """What share of the time each worker has computed, exchanged and waited."""
        seconds = max(self._clock() - self._begin, 1e-9)
        return {
            worker: TimeSpent.of(computed / seconds, self._exchanged[worker] / seconds)
            for worker, computed in sorted(self._computed.items())
        }

    def _write(self, event: str, figures: Figures, clocks: Figures) -> None:
        line = json.dumps({"event": event, **clocks, **figures})
        self._metrics.append(line.encode("utf-8") + b"\n")
        if error := self._metrics.try_to_flush():
            self.tell_once(
                f"{self._metrics.path} can't be written: {error.strerror}; what is "
                "missing follows when it can"
            )
        with self._board_may_fail():
            for name, value in _flatten(figures):
                self._board.add_scalar(f"{event}/{name}", value, clocks["updates"])

    @contextlib.contextmanager
    def _board_may_fail(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # its thread has ended, and says so from now on
            self.tell_once(
                f"TensorBoard's files can't be written: {error.strerror}; no more of "
                "them until training starts again"
            )

    def tell_once(self, text: str) -> None:
        """Show a line, unless it has been shown."""
        if text not in self._told:
            self._told.add(text)
            self.display.message(text)

    def _draw_staleness(self, histogram: dict[int, int], updates: int) -> None:
        values = [late for late, count in histogram.items() for _ in range(count)]
        if not values:  # the only pushes were for no shard
            return
        with self._board_may_fail():
            self._board.add_histogram("train/staleness", np.array(values), updates, bins="auto")

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        with self._board_may_fail():
            self._board.close()


def _flatten(figures: Figures) -> Iterator[tuple[str, float]]:
    """List the numbers among figures, those in dictionaries as name/key."""
    for name, value in figures.items():
        if isinstance(value, dict) and name != "staleness_histogram":
            yield from _flatten({f"{name}/{key}": inner for key, inner in value.items()})
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
