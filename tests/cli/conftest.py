"""A run with two checkpoints, whose networks have learned nothing, for what reads checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import Snapshot, point, save
from nmtasync.config.load import to_toml
from nmtasync.config.schema import Config, DataConfig, ModelConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory


@pytest.fixture(scope="session")
def trained_template(tmp_path_factory: pytest.TempPathFactory, _toy_run_template: Path) -> Path:
    run = RunDirectory(tmp_path_factory.mktemp("trained") / "run")
    shutil.copytree(_toy_run_template, run.root)
    vocabularies = VocabularyPair.load(run.vocab)
    size = vocabularies.source.size
    model = ModelConfig(dimension=16, encoder_layers=1, decoder_layers=1)
    config = Config(data=DataConfig(source_language="de"), model=model)
    for updates in (15, 30):
        torch.manual_seed(updates)
        flat = FlatModel(build_model(config.model, size, size))
        flat.parameters.add_(torch.randn_like(flat.parameters), alpha=0.2)  # livelier
        state = TrainingState(config, vocabularies.digest(), updates=updates)
        save(run, Snapshot({"parameters": flat.parameters}, state), flat.layout)
    point(run, "best", 30)
    run.config.write_text(to_toml(config), "utf-8")
    return run.root


@pytest.fixture
def trained(tmp_path: Path, trained_template: Path) -> Path:
    return shutil.copytree(trained_template, tmp_path / "run")
