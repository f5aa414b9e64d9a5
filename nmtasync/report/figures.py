"""All that a report shows, of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nmtasync
from nmtasync.errors import UserError
from nmtasync.report.curves import Point, reach_bleu
from nmtasync.report.metrics_log import number
from nmtasync.report.options import Difference, options_that_differ
from nmtasync.report.run_figures import RunFigures, read_run
from nmtasync.report.test_results import METRICS, TestResult, read_results
from nmtasync.report.thinning import Series, thin, thin_to_peaks
from nmtasync.report.translations import Samples, sample
from nmtasync.run_directory import RunDirectory

MAX_NUMBERS = 120_000
"""Of all curves together: about a megabyte of text."""
MAX_VALIDATIONS = 2000
"""Of a run."""


@dataclass(frozen=True)
class TimeToBleu:
    """How fast a run was, until it reached a BLEU.

    Attributes:
        run: Its name.
        seconds: Until then; None if it never did.
        target_words: Trained on until then.
        updates: Made until then.
        speed_up: The first run's seconds over these, which is `by_words` times `by_pace`.
        by_words: The first run's target words over these.
        by_pace: The target words per second until then over the first run's.
    """

    run: str
    seconds: float | None = None
    target_words: float | None = None
    updates: float | None = None
    speed_up: float | None = None
    by_words: float | None = None
    by_pace: float | None = None


@dataclass(frozen=True)
class Report:
    """What is shown.

    Attributes:
        runs: The runs, in the order in which they were named.
        target: The BLEU that runs are timed to: the best that all of them have reached.
        times: How fast they were; the first is what the others are compared with.
        differences: Options that are not alike.
        results: Scores of test sets, each with the name of its run.
        samples: Translations.
        notes: What could not be read, each with the name of its run.
    """

    runs: list[RunFigures]
    target: float | None
    times: list[TimeToBleu]
    differences: list[Difference]
    results: list[tuple[str, TestResult]]
    samples: list[Samples]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON has it; a number that is not finite is null."""
        content = {
            "nmtasync": nmtasync.__version__,
            "runs": [_run_to_json(run, len(self.runs)) for run in self.runs],
            "time_to_bleu": {"bleu": self.target, "runs": list(map(asdict, self.times))},
            "options": list(map(asdict, self.differences)),
            "test_sets": [_result_to_json(run, result) for run, result in self.results],
            "translations": list(map(asdict, self.samples)),
            "notes": self.notes,
        }
        plain: dict[str, Any] = _plain(content)
        return plain


def read_report(paths: Sequence[Path], num_sentences: int) -> Report:
    """Read all that is known of some runs.

    Args:
        paths: Their directories.
        num_sentences: How many sentences of each test set to take as samples.

    Raises:
        UserError: One of them is no run, or named twice.
    """
    runs = [read_run(name, path) for name, path in zip(_names(paths), paths, strict=True)]
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    results: list[tuple[str, TestResult]] = []
    for run in runs:
        found, unread = read_results(RunDirectory(run.path))
        results += [(run.name, result) for result in found]
        notes += [f"{run.name}: {note}" for note in unread]
    samples, unread = sample(results, num_sentences)
    target = best_of_all(runs)
    return Report(
        runs=runs,
        target=target,
        times=[] if target is None else time_to_bleu(runs, target),
        differences=options_that_differ([run.options for run in runs]),
        results=sorted(results, key=lambda pair: pair[1].name),
        samples=samples,
        notes=notes + unread,
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many of them as tell the paths apart."""
    whole = [path.resolve() for path in paths]
    for path in paths:
        if whole.count(path.resolve()) > 1:
            raise UserError("is named twice", where=path, remedy="name each run once")
    for num_parts in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-num_parts:]) for path in whole]
        if len(set(names)) == len(names):
            break
    return [_plain(name) for name in names]


def best_of_all(runs: Sequence[RunFigures]) -> float | None:
    """The best BLEU that all runs with validations have reached, to two digits downwards."""
    best = [max(point.bleu for point in run.points) for run in runs if run.points]
    return int(min(best) * 100) / 100 if best and min(best) > 0 else None


def time_to_bleu(runs: Sequence[RunFigures], bleu: float) -> list[TimeToBleu]:
    """Time runs until they reached a BLEU, and compare them with the first."""
    places = [reach_bleu(run.points, bleu) for run in runs]
    return [_compare(run, place, places[0]) for run, place in zip(runs, places, strict=True)]


def _compare(run: RunFigures, place: Point | None, first: Point | None) -> TimeToBleu:
    if place is None:
        return TimeToBleu(run.name)
    moments = [0.0, *(value or 0.0 for value in run.validations["seconds"])]
    updates = [0.0, *(value or 0.0 for value in run.validations["updates"])]
    known = place.seconds, place.target_words, float(np.interp(place.seconds, moments, updates))
    if first is None or not (place.seconds and place.target_words and first.target_words):
        return TimeToBleu(run.name, *known)
    by_words, speed_up = first.target_words / place.target_words, first.seconds / place.seconds
    return TimeToBleu(run.name, *known, speed_up, by_words, speed_up / by_words)


def _run_to_json(run: RunFigures, num_runs: int) -> dict[str, Any]:
    """A run, its curves thinned so far that those of all runs are no more than can be shown."""
    num_curves = len(run.training) + len(run.staleness_by_worker)
    most = max(20, MAX_NUMBERS // (num_runs * max(num_curves, 1)))
    curves = {**run.training, **{f"worker {w}": s for w, s in run.staleness_by_worker.items()}}
    curves = thin(run.words, curves, most)
    smoothed: Series = [None] * len(run.validations["bleu"])
    places = [i for i, bleu in enumerate(run.validations["bleu"]) if bleu is not None]
    for place, point in zip(places, run.smoothed, strict=True):
        smoothed[place] = point.bleu
    validations = {**run.validations, "smoothed_bleu": smoothed}
    return {
        "name": run.name,
        "path": str(run.path),
        "ended": run.ended,
        "summary": summary(run),
        "training": {name: curves[name] for name in run.training},
        "staleness_by_worker": {w: curves[f"worker {w}"] for w in run.staleness_by_worker},
        "staleness_histogram": run.staleness_histogram,
        "validations": thin_to_peaks(
            validations["bleu"], validations, max(20, MAX_VALIDATIONS // num_runs)
        ),
        "events": [asdict(event) for event in run.events],
    }


def summary(run: RunFigures) -> dict[str, float | None]:
    """What a run has come to, in single numbers; None where there is none."""
    training, validations = run.training, run.validations
    last = {name: values[-1] if values else None for name, values in training.items()}
    seconds, words = last["seconds"], last["target_words"]
    late = sum(run.staleness_histogram.values())
    cross_entropies = [value for value in validations["cross_entropy"] if value is not None]
    return {
        "seconds": seconds,
        "updates": last["updates"],
        "epochs": last["epochs"],
        "target_words": words,
        "target_words_per_second": words / seconds if words is not None and seconds else None,
        "staleness": sum(k * n for k, n in run.staleness_histogram.items()) / late
        if late
        else None,
        "gigabytes_exchanged": None if run.bytes_exchanged is None else run.bytes_exchanged / 1e9,
        "best_bleu": max((point.bleu for point in run.points), default=None),
        "lowest_cross_entropy": min(cross_entropies, default=None),
    }


def _result_to_json(run: str, result: TestResult) -> dict[str, Any]:
    return {
        "run": run,
        "name": result.name,
        **dict.fromkeys(METRICS),
        **{name: asdict(metric) for name, metric in result.metrics.items()},
        "checkpoint": result.checkpoint,
        "averaged_checkpoints": result.num_averaged,
        "beam_size": result.beam_size,
        "against": [asdict(rival) for rival in result.rivals],
    }


def _plain(content: Any) -> Any:
    """Round numbers, and replace what JSON in UTF-8 does not have: not finite ones, odd bytes."""
    if isinstance(content, dict):
        return {_plain(str(key)): _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return None if number(content) is None else float(f"{content:.7g}")
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode("utf-8")
    return content
