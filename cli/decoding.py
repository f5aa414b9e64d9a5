"""The flags and options that `evaluate` and `translate` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nmtasync.config.load import Settings, read_toml, resolve
from nmtasync.config.schema import DecodingConfig
from nmtasync.run_directory import RunDirectory

from .options import device_option

F = TypeVar("F", bound=Callable[..., Any])


def model_options(function: F) -> F:
    """Add `--checkpoint`, `--average` and `--device`."""
    function = click.option(
        "--average",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Average the parameters of N checkpoints: the chosen one and the newest before it.",
    )(device_option(function))
    return click.option(
        "--checkpoint",
        default="best",
        show_default=True,
        metavar="best|latest|UPDATES|NAME",
        help="Which checkpoint to use: the best by validation, the latest, one by its number, or "
        "what `nmtasync average` has made, by its name.",
    )(function)


def read_decoding(run: Path, settings: Settings) -> DecodingConfig:
    """Resolve the section decoding: RUN/config.toml, then `settings`.

    Raises:
        UserError: RUN/config.toml can't be read.
    """
    kept = RunDirectory(run).config
    settings = (read_toml(kept) if kept.exists() else {}) | settings
    return resolve({n: v for n, v in settings.items() if n.startswith("decoding.")}).decoding
