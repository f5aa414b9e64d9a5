"""The options of runs, and which of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nmtasync.config.load import merge, read_toml
from nmtasync.config.option import spelled
from nmtasync.config.schema import OPTIONS
from nmtasync.run_directory import RunDirectory

Options = dict[str, Any]
"""The value of every option, by full name."""


@dataclass(frozen=True)
class Difference:
    """An option that runs do not have alike.

    Attributes:
        name: Its full name.
        default: As a file of options has it.
        values: Of the runs likewise; None of one whose options are not known.
    """

    name: str
    default: str
    values: list[str | None]


def read_options(run: RunDirectory) -> Options:
    """Read RUN/config.toml; what it does not set has its default.

    Raises:
        UserError: It can't be read.
    """
    kept = merge(read_toml(run.config))
    return {name: kept.get(name, field.default) for name, field in OPTIONS.items()}


def options_that_differ(runs: Sequence[Options | None]) -> list[Difference]:
    """List the options that are not alike in all runs; of a single run, those not at default.

    Args:
        runs: Their options, as far as they are known.
    """
    differences = []
    known = [options for options in runs if options is not None]
    for name, field in OPTIONS.items():
        values = [spelled(options[name]) for options in known]
        alike = {*values} if len(known) > 1 else {*values, spelled(field.default)}
        if len(alike) > 1:
            cells = [None if options is None else spelled(options[name]) for options in runs]
            differences.append(Difference(name, spelled(field.default), cells))
    return differences
