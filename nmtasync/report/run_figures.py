"""What one run has come to: its curves, how late its pushes were, and what happened to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from nmtasync.errors import UserError
from nmtasync.report.curves import Point, smooth
from nmtasync.report.metrics_log import (
    Line,
    MetricsLog,
    intervals_that_stand,
    read_metrics,
    that_stand,
)
from nmtasync.report.momentum import momentum_of
from nmtasync.report.options import Options, read_options
from nmtasync.report.thinning import Series
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import number_of

SMOOTHED_EPOCHS = 0.5
"""How far to each side curves are smoothed."""
MAX_EVENTS = 200
MAX_WORKERS = 256
_MOST_CHARACTERS = 500

_FIGURES = {
    "loss": "loss",
    "target_words_per_second": "target_words_per_second",
    "learning_rate": "learning_rate",
    "batches_per_push": "batches_per_push",
    "staleness_mean": "staleness_mean",
}
"""Curves, and the fields of the log that they are of."""


@dataclass(frozen=True)
class Event:
    """Something that happened beside training and validating.

    Attributes:
        seconds: When, since training began.
        updates: Made until then.
        what: What happened.
    """

    seconds: float
    updates: float
    what: str


@dataclass(frozen=True)
class RunFigures:
    """A run in figures.

    Attributes:
        name: What it is called beside the others.
        path: Where it is.
        options: All of them; None if they can't be read.
        ended: Why training ended; None if it goes on, or was killed.
        training: Curves of training by name, over the clocks `seconds`, `target_words`,
            `updates` and `epochs`; None where a line has no such figure.
        words: Target words that each point of `training` is about.
        staleness_by_worker: Mean lateness in updates, by worker, at the same clocks.
        validations: Curves of validations over the same clocks.
        points: The validations that measured BLEU.
        smoothed: The same, smoothed as the paper's curves are.
        staleness_histogram: How many pushes, times shards, came how many updates late.
        bytes_exchanged: Pushed and fetched, all workers together; None if it is not known.
        events: What else happened, the last of it.
        notes: What could not be read.
    """

    name: str
    path: Path
    options: Options | None = None
    ended: str | None = None
    training: dict[str, Series] = field(default_factory=dict)
    words: list[float] = field(default_factory=list)
    staleness_by_worker: dict[int, Series] = field(default_factory=dict)
    validations: dict[str, Series] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    smoothed: list[Point] = field(default_factory=list)
    staleness_histogram: dict[int, int] = field(default_factory=dict)
    bytes_exchanged: float | None = None
    events: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(name: str, path: Path) -> RunFigures:
    """Read the figures of a run, as far as there are any.

    Args:
        name: What to call it.
        path: The directory.

    Raises:
        UserError: It is no run.
    """
    run = RunDirectory(path)
    if not path.is_dir():
        raise UserError("there is no such directory", where=path, remedy="check the path")
    if not (run.config.exists() or run.logs.exists() or run.evaluation.exists()):
        raise UserError(
            "is no run: it has neither config.toml nor logs nor evaluation",
            where=path,
            remedy="name the directory that `nmtasync train` was given",
        )
    notes: list[str] = []
    options = _options(run, notes)
    log = _log(run, notes)
    intervals = intervals_that_stand(log.lines)
    momentum = (lambda line: None) if options is None else momentum_of(run, options)
    words = list(_words(intervals))
    training = _training([line for line, _ in intervals], words, momentum)
    if intervals and options is not None and not any(v is not None for v in training["momentum"]):
        notes.append("momentum is not known: no checkpoint says what reference words were counted")
    validations = _validations(log.lines, training)
    points = _points(validations)
    half = _words_of_an_epoch(training) * SMOOTHED_EPOCHS
    return RunFigures(
        name=name,
        path=path,
        options=options,
        ended=_end(log.lines),
        training=training,
        words=words,
        staleness_by_worker=_by_worker([line for line, _ in intervals]),
        validations=validations,
        points=points,
        smoothed=smooth(points, half) if half > 0 else points,
        staleness_histogram=_histogram(line for line, _ in intervals),
        bytes_exchanged=_bytes_exchanged([line for line, _ in intervals]),
        events=_events(log.lines),
        notes=notes,
    )


def _options(run: RunDirectory, notes: list[str]) -> Options | None:
    try:
        return read_options(run)
    except UserError as error:
        notes.append(f"its options are not known: {error}")
        return None


def _log(run: RunDirectory, notes: list[str]) -> MetricsLog:
    path = run.logs / "metrics.jsonl"
    try:
        log = read_metrics(path)
    except (OSError, ValueError) as error:
        notes.append(f"{path}: can't be read: {error}")
        return MetricsLog([], 0)
    if log.num_unreadable:
        notes.append(f"{path}: {log.num_unreadable:,} damaged line(s) are left out")
    return log


def _words(intervals: list[tuple[Line, float]]) -> Iterator[float]:
    """The target words of each interval."""
    before = 0.0
    for line, seconds in intervals:
        pace = line.number("target_words_per_second")
        if pace is not None:
            yield seconds * pace
        else:  # no virtual time has passed
            updates = max(0.0, line.updates - before)
            yield updates * (line.number("target_words_per_update") or 0.0)
        before = line.updates


def _training(
    lines: list[Line], words: list[float], momentum: Callable[[Line], float | None]
) -> dict[str, Series]:
    return {
        "seconds": [line.seconds for line in lines],
        "target_words": list(accumulate(words)),
        "updates": [line.updates for line in lines],
        "epochs": [line.epoch for line in lines],
        **{name: [line.number(key) for line in lines] for name, key in _FIGURES.items()},
        "momentum": [momentum(line) for line in lines],
    }


def _bytes_exchanged(lines: list[Line]) -> float | None:
    numbers = [line.number(name) for line in lines for name in ("bytes_sent", "bytes_received")]
    return sum(number for number in numbers if number is not None) or None


def _by_worker(lines: list[Line]) -> dict[int, Series]:
    means = [line.numbers("staleness_by_worker") for line in lines]
    names = {name for line in means for name in line if number_of(name) is not None}
    workers = sorted(names, key=int)[:MAX_WORKERS]
    return {int(name): [line.get(name) for line in means] for name in workers}


def _histogram(lines: Iterable[Line]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for line in lines:
        for late, count in line.numbers("staleness_histogram").items():
            if number_of(late) is not None and count > 0:
                counts[int(late)] += int(count)
    return dict(sorted(counts.items()))


def _validations(lines: Iterable[Line], training: dict[str, Series]) -> dict[str, Series]:
    """Validations that stand; their words are those of training at the moment of their snapshot."""
    standing = that_stand(line for line in lines if line.event == "valid")
    seconds = [line.seconds for line in standing]
    return {
        "seconds": list(seconds),
        "updates": [line.updates for line in standing],
        **{name: _between(training, name, seconds) for name in ("target_words", "epochs")},
        "bleu": [line.number("bleu") for line in standing],
        "cross_entropy": [line.number("cross_entropy") for line in standing],
    }


def _between(training: dict[str, Series], name: str, seconds: Sequence[float]) -> Series:
    """Values of a clock at some times, on the straight lines between the lines of training."""
    pairs = zip(training["seconds"], training[name], strict=True)
    known = [(place, value) for place, value in pairs if place is not None and value is not None]
    places, values = zip((0.0, 0.0), *known, strict=True)
    return [float(value) for value in np.interp(seconds, places, values)]


def _points(validations: dict[str, Series]) -> list[Point]:
    rows = zip(
        *(validations[name] for name in ("seconds", "target_words", "bleu", "cross_entropy")),
        strict=True,
    )
    return [
        Point(seconds, words, bleu, float("nan") if cross_entropy is None else cross_entropy)
        for seconds, words, bleu, cross_entropy in rows
        if seconds is not None and words is not None and bleu is not None
    ]


def _words_of_an_epoch(training: dict[str, Series]) -> float:
    words, epochs = training["target_words"], training["epochs"]
    if not words or not words[-1] or not epochs[-1] or epochs[-1] <= 0:
        return 0.0
    return words[-1] / epochs[-1]


def _events(lines: Iterable[Line]) -> list[Event]:
    """What happened to workers, checkpoints and training itself."""
    said = []
    for line in lines:
        match line.event:
            case "worker":
                worker = line.text("worker")
                name = f"worker {worker}" if worker.isdecimal() else worker
                what = f"{name} {line.text('what')}"
            case "failed-save":
                what = f"not saved: {line.text('what')}"
            case "rollback":
                what = f"went back to update {line.text('checkpoint')}: {line.text('reason')}"
            case "end":
                what = f"ended: {line.text('reason')}"
            case _:
                continue
        said.append(Event(line.seconds, line.updates, _cut(what)))
    return said[-MAX_EVENTS:]


def _cut(what: str) -> str:
    return what if len(what) <= _MOST_CHARACTERS else what[:_MOST_CHARACTERS] + "…"


def _end(lines: list[Line]) -> str | None:
    """Why the run ended, if it did and has not been gone on with."""
    if not lines or lines[-1].event != "end":
        return None
    return _cut(lines[-1].text("reason"))
