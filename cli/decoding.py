"""The flags and options that `evaluate`, `translate` and `score` share."""

from __future__ import annotations

import fcntl
import functools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from nmtasync.config.load import Settings, read_toml, resolve
from nmtasync.config.schema import DecodingConfig
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory

from .options import average_option, checkpoint_option, device_option

if TYPE_CHECKING:
    from nmtasync.evaluation.trained_model import Member
    from nmtasync.machine.precision import PrecisionChoice

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class ChosenModel:
    """What the flags of `model_options` say.

    Attributes:
        checkpoint: Of RUN.
        average: How many checkpoints are averaged.
        device: Where to compute.
        threads: CPU threads; None leaves them as they are.
        ensemble: Other models, as they were named.
    """

    checkpoint: str
    average: int
    device: str
    threads: int | None
    ensemble: tuple[str, ...]

    def others(self) -> list[Member]:
        """Read the other models' names, and let PyTorch use the threads.

        Raises:
            UserError: One can't be read.
        """
        import torch

        from nmtasync.evaluation.trained_model import parse_member

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return [parse_member(given) for given in self.ensemble]


def model_options(function: F) -> Callable[..., Any]:
    """Add the flags that choose a model; the command receives them as one argument, `model`."""

    @functools.wraps(function)
    def command(
        checkpoint: str,
        average: int,
        device: str,
        threads: int | None,
        ensemble: tuple[str, ...],
        **arguments: Any,
    ) -> Any:
        model = ChosenModel(checkpoint, average, device, threads, ensemble)
        return function(model=model, **arguments)

    command = click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="CPU threads to compute with; by default all cores.",
    )(device_option(command))
    command = click.option(
        "--ensemble",
        multiple=True,
        metavar="RUN[:CHECKPOINT][@WEIGHT]",
        help="Let this model predict, too, by the weighted mean of log probabilities; its best "
        "checkpoint if none is named, with weight 1, as RUN has. May be repeated.",
    )(command)
    return checkpoint_option(average_option(command))


def read_decoding(run: Path, settings: Settings) -> DecodingConfig:
    """Resolve the section decoding: RUN/config.toml, then `settings`.

    Raises:
        UserError: RUN/config.toml can't be read.
    """
    kept = RunDirectory(run).config
    settings = (read_toml(kept) if kept.exists() else {}) | settings
    return resolve({n: v for n, v in settings.items() if n.startswith("decoding.")}).decoding


def say_precision(decoding: DecodingConfig, choice: PrecisionChoice) -> None:
    """Say on standard error what `decoding.precision` "auto" has come to."""
    if decoding.precision == "auto":
        click.echo(f"nmtasync: precision {choice.precision}: {choice.reason}", err=True)


def finite_or_none(number: float) -> float | None:
    """Return a number as JSON may have it: none where it is infinite, or no number."""
    return number if math.isfinite(number) else None


def standard_input() -> BinaryIO:
    """Return standard input.

    Raises:
        UserError: It is closed.
    """
    if sys.stdin is None:  # as `<&-` makes it
        raise _closed("input")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Return standard output.

    Raises:
        UserError: It is closed, or for reading.
    """
    if sys.stdout is None:
        raise _closed("output")
    if fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise UserError(
            "is open for reading only", where="standard output", remedy="give it a file or a pipe"
        )
    return sys.stdout.buffer


def _closed(name: str) -> UserError:
    return UserError("is closed", where=f"standard {name}", remedy="give it a file or a pipe")
