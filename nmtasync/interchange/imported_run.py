"""A RUN made of another program's network: vocabulary and one checkpoint, of update 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nmtasync
from nmtasync.checkpoints.checksums import TRAINING
from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import Snapshot, point, save
from nmtasync.config.load import convert, find_option, resolve, to_toml
from nmtasync.config.schema import Config, DataConfig, ModelConfig
from nmtasync.data.vocabulary import SENTENCEPIECE_VERSION, VocabularyPair
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import (
    MANIFEST_FORMAT,
    RunDirectory,
    directory_written_atomically,
    explain_write_errors,
    refuse_filled,
    sha256,
    write_json,
)


@dataclass(frozen=True)
class Imported:
    """A network of another program.

    Attributes:
        model: What it is like.
        parameters: By our names.
        vocabularies: Of both sides.
        source_language: Its code, if it is known.
        target_language: Likewise.
        origin: What it was made of: "format" and "path".
    """

    model: ModelConfig
    parameters: Mapping[str, Tensor]
    vocabularies: VocabularyPair
    source_language: str | None
    target_language: str | None
    origin: Mapping[str, str]


def model_config(settings: Mapping[str, Any], where: Path) -> ModelConfig:
    """Check options of [model] that another program's file stands for.

    Args:
        settings: Values by key.
        where: The file, for errors.

    Raises:
        UserError: A value is none that the option may have.
    """
    checked = {}
    for key, value in settings.items():
        option = find_option(f"model.{key}", where=where)
        checked[option.name] = convert(option, value, where=where)
    return resolve(checked).model


def write_run(root: Path, imported: Imported) -> None:
    """Write a RUN, whole or not at all.

    Raises:
        UserError: The place is taken, or the parameters are not those of such a network.
    """
    refuse_filled(root)
    data = DataConfig(
        joint_vocabulary=imported.vocabularies.joint,
        vocab_size=imported.vocabularies.target.size,
        source_language=imported.source_language,
        target_language=imported.target_language,
    )
    config, model = Config(data=data, model=imported.model), fill(imported)
    with explain_write_errors(root), directory_written_atomically(root) as aside:
        run = RunDirectory(aside)
        run.vocab.mkdir()
        imported.vocabularies.save(run.vocab)
        run.config.write_text(to_toml(config), "utf-8")
        _write_manifest(run, data, imported)
        state = TrainingState(config, imported.vocabularies.digest())
        save(run, Snapshot({"parameters": model.parameters}, state), model.layout)
        point(run, "best", 0)
        (run.checkpoints / "0" / TRAINING).unlink()  # there is nothing to go on with


def fill(imported: Imported) -> FlatModel[SequenceToSequence]:
    """Build the network, of which all parameters are there already.

    Raises:
        UserError: Its sizes don't fit each other.
    """
    vocabularies, parameters = imported.vocabularies, imported.parameters
    built = build_model(imported.model, vocabularies.source.size, vocabularies.target.size)
    expected = {name: parameter.shape for name, parameter in built.named_parameters()}
    assert {name: tensor.shape for name, tensor in parameters.items()} == expected
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(parameters[name])
    return FlatModel(built)


def _write_manifest(run: RunDirectory, data: DataConfig, imported: Imported) -> None:
    vocabularies = imported.vocabularies
    write_json(
        run.manifest,
        {
            "format": MANIFEST_FORMAT,
            "nmtasync": nmtasync.__version__,
            "sentencepiece": SENTENCEPIECE_VERSION,
            "options": dataclasses.asdict(data),
            "imported": dict(imported.origin),
            "inputs": [],
            "vocabulary": {
                "digest": vocabularies.digest(),
                "from": None,
                "joint": vocabularies.joint,
                "source_size": vocabularies.source.size,
                "target_size": vocabularies.target.size,
            },
            "outputs": {f"vocab/{path.name}": sha256(path) for path in sorted(run.vocab.iterdir())},
        },
    )
