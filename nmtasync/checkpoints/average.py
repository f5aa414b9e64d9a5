"""Means of checkpoints, as checkpoints of their own: which are taken, and what is written.

Averaged are the parameters that validation scored: the moving averages where smoothing is on.
Source: Junczys-Dowmunt et al. 2016, "The AMU-UEDIN Submission to the WMT16 News Translation Task".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from nmtasync.checkpoints.history import Validation, ValidationHistory
from nmtasync.checkpoints.load import load_mean, read_state
from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import is_average_name, list_checkpoints, save_average
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import MAX_INTEGER


def choose_last(run: RunDirectory, count: int) -> list[int]:
    """Choose the newest checkpoints, the oldest of them first.

    Raises:
        UserError: There are not so many.
    """
    numbers = list_checkpoints(run)
    if len(numbers) < count:
        raise _too_few(run, f"{len(numbers)} checkpoints", count)
    return numbers[-count:]


def choose_best(run: RunDirectory, count: int) -> list[int]:
    """Choose the checkpoints that validation liked best, by the metric that training compared by.

    Of equals the earlier is better, as for `best`.

    Raises:
        UserError: There are not so many that have been validated.
    """
    numbers = list_checkpoints(run)
    if not numbers:
        raise _too_few(run, "0 checkpoints", count)
    newest = read_state(run, numbers[-1], VocabularyPair.load(run.vocab).digest())
    metric = newest.config.training.validate_metric
    history = ValidationHistory(run, metric, until=MAX_INTEGER)
    validated = {v.updates: v for v in history.validations if v.updates in numbers}
    if len(validated) < count:
        raise _too_few(run, f"{len(validated)} validated checkpoints", count)

    def compare(one: Validation, other: Validation) -> int:
        return other.better_than(one, metric) - one.better_than(other, metric)

    in_order = sorted(validated.values(), key=lambda validation: validation.updates)
    ranked = sorted(in_order, key=functools.cmp_to_key(compare))
    return sorted(validation.updates for validation in ranked[:count])


def choose_named(run: RunDirectory, numbers: Sequence[int]) -> list[int]:
    """See that checkpoints are there, and return their numbers, the oldest first.

    Raises:
        UserError: One is not there, or named twice.
    """
    known = list_checkpoints(run)
    for number in numbers:
        if number not in known:
            have = ", ".join(map(str, known)) or "none"
            raise UserError(f"holds no checkpoint {number}; there are {have}", where=run.root)
        if numbers.count(number) > 1:
            raise UserError("is named twice", where=f"--checkpoints {number}", remedy="drop one")
    return sorted(numbers)


def write_average(
    run: RunDirectory, numbers: Sequence[int], name: str
) -> tuple[Path, TrainingState]:
    """Write the mean of checkpoints, in the place of one that has its name.

    Args:
        run: Where.
        numbers: Which, the newest last.
        name: What it shall be called.

    Returns:
        Where it is, and its state: that of the newest.

    Raises:
        UserError: The name is none, or a checkpoint is damaged.
    """
    if not is_average_name(name):
        raise UserError(
            "must be a letter, then letters, digits, - or _, and neither best nor latest",
            where=f"--name {name}",
            remedy="choose one like last-3",
        )
    model, states = load_mean(run, numbers)
    state = dataclasses.replace(states[-1], averaged=tuple(numbers))
    parameters = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    return save_average(run, name, parameters, state), state


def _too_few(run: RunDirectory, have: str, count: int) -> UserError:
    return UserError(
        f"holds {have}, not {count}",
        where=run.checkpoints,
        remedy=f"average fewer, or train with --set training.keep_checkpoints={count}",
    )
