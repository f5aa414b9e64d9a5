"""A trained model with what it needs to translate, from the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nmtasync.checkpoints.load import load_model
from nmtasync.config.schema import Config, DecodingConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.evaluation.translate import Translator
from nmtasync.machine.device import resolve_device
from nmtasync.run_directory import RunDirectory


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
        checkpoint: "best", "latest", the updates of a checkpoint, or the name of an average.
        average: How many checkpoints to average: that one and the newest before it.
        device: "auto", or the name of a device.
        decoding: How to search.
        on_warning: As of `Translator`.

    Raises:
        UserError: There is no such model or device.
    """
    directory = RunDirectory(run)
    directory.read_manifest()
    device = resolve_device(device, where="--device")
    model, config, checkpoints = load_model(directory, checkpoint, device, average)
    vocabularies = VocabularyPair.load(directory.vocab)
    translator = Translator(model, vocabularies, decoding, device, on_warning)
    return TrainedModel(translator, config, checkpoints)
