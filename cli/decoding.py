"""What `evaluate` and `translate` share: the trained model, and how it searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nmtasync.config.load import Settings, read_toml, resolve
from nmtasync.config.schema import Config, DecodingConfig
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory

from .options import read_settings

if TYPE_CHECKING:
    from nmtasync.evaluation.translate import Translator

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to translate.

    Attributes:
        translator: The model with its vocabulary and search.
        config: What it was trained with.
        checkpoints: The updates of the checkpoints that it is the average of, the oldest first.
    """

    translator: Translator
    config: Config
    checkpoints: list[int]


def model_options(function: F) -> F:
    """Add `--checkpoint`, `--average` and `--device`."""
    function = click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda:N",
        help="Where to translate; auto is the first GPU, else the CPU.",
    )(function)
    function = click.option(
        "--average",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Average the parameters of so many checkpoints: that one and the newest before it.",
    )(function)
    return click.option(
        "--checkpoint",
        default="best",
        show_default=True,
        metavar="best|latest|UPDATES",
        help="Which checkpoint to use: the best by validation, the latest, or by its number.",
    )(function)


def read_decoding(
    run: Path, config_files: tuple[Path, ...], assignments: tuple[str, ...], flags: dict[str, Any]
) -> DecodingConfig:
    """Merge RUN/config.toml, config files, `--set` and flags, the last one winning.

    A config file may hold the sections of other stages too; what is not about decoding is
    left aside there, but refused as `--set`.

    Raises:
        UserError: An option is bad, or of another section.
    """
    for name in read_settings((), assignments, {}):
        if not name.startswith("decoding."):
            raise UserError(
                "has no effect here, where only the section decoding is read",
                where=f"--set {name}",
                remedy="give it to the stage that it belongs to",
            )
    kept = RunDirectory(run).config
    settings: Settings = read_toml(kept) if kept.exists() else {}
    settings.update(read_settings(config_files, assignments, flags))
    return resolve({n: v for n, v in settings.items() if n.startswith("decoding.")}).decoding


def load_trained(
    run: Path,
    checkpoint: str,
    average: int,
    device: str,
    decoding: DecodingConfig,
    on_warning: Callable[[int, str], None] | None = None,
) -> TrainedModel:
    """Load a model with what it needs to translate.

    Args:
        run: The directory of the experiment.
        checkpoint: The value of `--checkpoint`.
        average: The value of `--average`.
        device: The value of `--device`.
        decoding: How to search.
        on_warning: As of `Translator`.

    Raises:
        UserError: There is no such model or device.
    """
    from nmtasync.checkpoints.load import load_model
    from nmtasync.data.vocabulary import VocabularyPair
    from nmtasync.evaluation.translate import Translator
    from nmtasync.machine.device import resolve_device

    if checkpoint not in ("best", "latest") and not checkpoint.isdecimal():
        raise UserError("must be best, latest or a number", where=f"--checkpoint {checkpoint}")
    directory = RunDirectory(run)
    directory.read_manifest()
    try:
        device = resolve_device(device)
    except UserError as error:
        remedy = "choose auto, cpu or cuda:N"
        raise UserError(error.message, where="--device", remedy=remedy) from None
    model, config, checkpoints = load_model(directory, checkpoint, device, average)
    vocabularies = VocabularyPair.load(directory.vocab)
    translator = Translator(model, vocabularies, decoding, device, on_warning)
    return TrainedModel(translator, config, checkpoints)
