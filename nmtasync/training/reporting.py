"""Reports of a training run: metrics.jsonl, TensorBoard and the display show the same figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from nmtasync.run_directory import RunDirectory, explain_write_errors
from nmtasync.server.messages import Push, Reply
from nmtasync.training.display import Display
from nmtasync.training.history import Validation

Figures = dict[str, Any]


@dataclass
class Interval:
    """What has been pushed since the last line, which was written at `start` (seconds)."""

    start: float
    pushes: int = 0
    target_words: int = 0
    source_words: int = 0
    cross_entropy: float = 0.0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    staleness: list[float] = field(default_factory=list)
    staleness_max: int = 0

    def add(self, push: Push, reply: Reply) -> None:
        """Count an applied push."""
        self.pushes += 1
        self.target_words += push.target_words
        self.source_words += push.source_words
        self.cross_entropy += push.cross_entropy
        self.gradient_norm += push.gradient_norm
        self.learning_rate = reply.learning_rate
        self.staleness.append(sum(reply.staleness) / len(reply.staleness))
        self.staleness_max = max(self.staleness_max, *reply.staleness)

    def figures(self, now: float) -> Figures:
        """Sum the interval up; there is no pace where no time has passed, virtual as it may be."""
        seconds = now - self.start
        return {
            "loss": self.cross_entropy / self.target_words,
            "source_words_per_second": self.source_words / seconds if seconds else None,
            "target_words_per_second": self.target_words / seconds if seconds else None,
            "target_words_per_update": self.target_words / self.pushes,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm / self.pushes,
            "staleness_mean": sum(self.staleness) / self.pushes,
            "staleness_max": self.staleness_max,
        }


class Reporter:
    """Writes every figure to all places.

    Args:
        run: Whose `logs` directory to write to; lines are added to what is there.
        display: What the user sees.
        log_every_seconds: How often a line of training figures is written.
        updates: Where this run (re)starts, for TensorBoard.
        clock: Tells the time in seconds, from any zero on.
    """

    def __init__(
        self,
        run: RunDirectory,
        display: Display,
        log_every_seconds: float,
        updates: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.display = display
        self.log_every_seconds = log_every_seconds
        with explain_write_errors(run.logs):
            run.logs.mkdir(parents=True, exist_ok=True)
            self._metrics = (run.logs / "metrics.jsonl").open("a", encoding="utf-8")
            self._board = SummaryWriter(str(run.logs), purge_step=updates)
        self._clock = clock
        self._begin = clock()
        self._interval = Interval(self._begin)
        self.compute_seconds: dict[int, float] = {}

    def pushed(self, push: Push, reply: Reply, clocks: Figures) -> None:
        """Note a push, and write a line when it is time."""
        seconds = self.compute_seconds.get(push.worker, 0.0) + push.compute_seconds
        self.compute_seconds[push.worker] = seconds
        if reply.applied:
            self._interval.add(push, reply)
        seconds = self._clock() - self._interval.start
        if seconds >= self.log_every_seconds and seconds > 0:
            self.flush(clocks)

    def flush(self, clocks: Figures) -> None:
        """Write the line of the interval that has not been written yet."""
        now = self._clock()
        interval, self._interval = self._interval, Interval(now)
        if interval.pushes:
            figures = interval.figures(now)
            self._write("train", figures, clocks)
            self.display.training(figures, clocks)

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

    def worker(self, worker: int, what: str, clocks: Figures) -> None:
        """Note what happened to a worker."""
        self._write("worker", {"worker": worker, "what": what}, clocks)
        self.display.message(f"worker {worker} {what}")

    def end(self, reason: str, clocks: Figures) -> None:
        """Note the end of training."""
        self._write("end", {"reason": reason, "computing": self.computing()}, clocks)

    def computing(self) -> dict[int, float]:
        """What share of the time each worker computed, from 0 to 1."""
        seconds = max(self._clock() - self._begin, 1e-9)
        # virtual workers may have begun before this process did
        shares = {w: min(s / seconds, 1.0) for w, s in sorted(self.compute_seconds.items())}
        return {worker: round(share, 4) for worker, share in shares.items()}

    def _write(self, event: str, figures: Figures, clocks: Figures) -> None:
        line = json.dumps({"event": event, **clocks, **figures})
        with explain_write_errors(self._metrics.name):
            self._metrics.write(line + "\n")
            self._metrics.flush()
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add_scalar(f"{event}/{name}", value, clocks["updates"])

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._board.close()
