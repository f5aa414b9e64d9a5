"""The momentum of updates. The log does not have it, but all that it depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nmtasync.config.schema import OptimizerConfig, ScheduleConfig
from nmtasync.optim.schedules import betas_at
from nmtasync.report.metrics_log import Line
from nmtasync.report.options import Options
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import number_of, parse_json, read_document

_STALENESS, _WORDS = "staleness_mean", "target_words_per_update"


def momentum_of(run: RunDirectory, options: Options) -> Callable[[Line], float | None]:
    """Return what computes the momentum of the updates that a line of the log is about.

    Adam's is the decay of its first moment, for updates as late and as large as the line's are on
    average; it is None where reference words that were counted in training are needed, and no
    checkpoint says how many they were.

    Args:
        run: Whose checkpoints may say it.
        options: Of the run.
    """
    optimizer = OptimizerConfig(**_section(options, "optimizer"))
    if optimizer.name == "sgd":
        return lambda line: optimizer.momentum
    words = options["schedule.reference_words"]
    if isinstance(words, str):
        words = _counted_words(run)
    schedule = ScheduleConfig(**{**_section(options, "schedule"), "reference_words": words})

    def momentum(line: Line) -> float | None:
        late, size = line.number(_STALENESS), line.number(_WORDS)
        unknown = optimizer.betas_by_words and words is None
        if unknown or late is None or size is None or late < 0 or size < 1:
            return None
        return betas_at(int(line.updates), int(size), optimizer, schedule, late)[0]

    return momentum


def _section(options: Options, section: str) -> dict[str, Any]:
    start = f"{section}."
    return {n.removeprefix(start): value for n, value in options.items() if n.startswith(start)}


def _counted_words(run: RunDirectory) -> int | None:
    """What the newest checkpoint has for `schedule.reference_words`, if it says it."""
    try:
        updates = number_of(read_document(run.checkpoints / "latest").decode("utf-8").strip())
        state = parse_json(read_document(run.checkpoints / str(updates) / "state.json"))
        words = state["config"]["schedule"]["reference_words"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return words if type(words) is int and words > 0 else None
