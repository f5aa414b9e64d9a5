"""What a training run has come to, out of its logs/metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmtasync.config.load import read_toml
from nmtasync.errors import UserError
from nmtasync.machine.signals import EXIT_CODES
from nmtasync.report.curves import Point, smooth
from nmtasync.report.metrics_log import Line, intervals_that_stand, read_metrics, that_stand
from nmtasync.report.run_figures import SMOOTHED_EPOCHS
from nmtasync.run_directory import RunDirectory


@dataclass(frozen=True)
class UpdateSize:
    """How large updates were, by one line of the log.

    Attributes:
        target_words: That had been trained on until then.
        per_update: Target words of a mean update since the line before.
    """

    target_words: float
    per_update: float


@dataclass(frozen=True)
class Measured:
    """A run in figures.

    Attributes:
        ended: Why training ended; None if it did not, or was stopped.
        learning_rate: Its `schedule.learning_rate`.
        seconds: How long it took until its last line, virtual or real.
        target_words_per_second: Over the whole of it.
        target_words_per_update: On average.
        staleness: Mean of all pushes and shards, in updates.
        points: Its validations, in the order of time.
        smoothed: The same with BLEU and cross-entropy smoothed, over half an epoch to each side.
        update_sizes: How large its updates were as training went on.
    """

    ended: str | None
    learning_rate: float
    seconds: float
    target_words_per_second: float
    target_words_per_update: float
    staleness: float
    points: list[Point]
    smoothed: list[Point]
    update_sizes: list[UpdateSize]

    @property
    def best_bleu(self) -> float | None:
        """The best of all validations, if there was one."""
        return max((point.bleu for point in self.points), default=None)

    @property
    def best_smoothed_bleu(self) -> float | None:
        """The highest place of the smoothed curve, if there is one."""
        return max((point.bleu for point in self.smoothed), default=None)

    @property
    def lowest_cross_entropy(self) -> float | None:
        """The lowest of all validations, if there was one."""
        return min((point.cross_entropy for point in self.points), default=None)


def measure(run: RunDirectory) -> Measured | None:
    """Read the figures of a run; None if it has trained nothing yet.

    Raises:
        UserError: The log, or the configuration, can't be read.
    """
    try:
        return _measure(run)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"is damaged: {error!r}", where=_log_of(run), remedy="train the run again"
        ) from None


def _measure(run: RunDirectory) -> Measured | None:
    lines = _read(run)
    intervals = intervals_that_stand(lines)
    if not intervals:
        return None
    training = [line.figures for line, _ in intervals]
    seconds = [line.seconds for line, _ in intervals]
    words = [span * (line.figures["target_words_per_second"] or 0.0) for line, span in intervals]
    # not the clock: shards that also take gradients one by one count more than the pushes
    updates = [
        count / line["target_words_per_update"] for count, line in zip(words, training, strict=True)
    ]
    stale = [count * line["staleness_mean"] for count, line in zip(updates, training, strict=True)]
    trained = np.cumsum(words).tolist()
    points = [
        Point(time, float(np.interp(time, [0.0, *seconds], [0.0, *trained])), bleu, cross_entropy)
        for time, bleu, cross_entropy in _validations(lines)
    ]
    return Measured(
        ended=_end(lines),
        learning_rate=read_toml(run.config)["schedule.learning_rate"],
        seconds=seconds[-1],
        target_words_per_second=trained[-1] / seconds[-1],
        target_words_per_update=trained[-1] / sum(updates),
        staleness=sum(stale) / sum(updates),
        points=points,
        smoothed=smooth(points, SMOOTHED_EPOCHS * trained[-1] / training[-1]["epoch"]),
        update_sizes=[
            UpdateSize(until, line["target_words_per_update"])
            for until, line in zip(trained, training, strict=True)
        ],
    )


def _validations(lines: Iterable[Line]) -> Iterator[tuple[float, float, float]]:
    """Seconds, BLEU and cross-entropy of each validation that measured BLEU."""
    for line in that_stand(line for line in lines if line.event == "valid"):
        if line.figures["bleu"] is not None:
            yield line.seconds, line.figures["bleu"], line.figures["cross_entropy"]


def _read(run: RunDirectory) -> list[Line]:
    path = _log_of(run)
    try:
        log = read_metrics(path)
    except (OSError, ValueError) as error:
        raise UserError(f"can't be read: {error}", where=path) from None
    if log.num_unreadable:
        raise ValueError(f"{log.num_unreadable} lines")
    return log.lines


def _log_of(run: RunDirectory) -> Path:
    return run.logs / "metrics.jsonl"


def _end(lines: list[Line]) -> str | None:
    """Why the run ended, if it did and has not been gone on with."""
    if lines[-1].event != "end" or lines[-1].figures["reason"] in EXIT_CODES:
        return None
    return str(lines[-1].figures["reason"])
