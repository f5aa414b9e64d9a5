"""Runs on Multi30k whose networks are random, but lively."""

from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import Snapshot, point, save
from nmtasync.config.load import to_toml
from nmtasync.config.schema import Config, DataConfig, ModelConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from tests.support.interchange import Pairs

NUM_PAIRS = 1000
SMALL = ModelConfig(dimension=32, heads=4, feed_forward=48, encoder_layers=2, decoder_layers=2)
MakeRun = Callable[..., RunDirectory]


def _multi30k() -> Path:
    place = Path(os.environ.get("NMTASYNC_TEST_DATA", "")) / "multi30k"
    if not (place / "train.de.gz").exists():
        pytest.skip("NMTASYNC_TEST_DATA names no directory with multi30k")
    return place


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Two hundred pairs of the test set of 2016."""
    files = (_multi30k() / f"test_2016_flickr.{side}.gz" for side in ("de", "en"))
    return Pairs(*(gzip.decompress(f.read_bytes()).decode().splitlines()[:200] for f in files))


@pytest.fixture(scope="session")
def _templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    made: dict[bool, Path] = {}

    def template(joint: bool) -> Path:
        if joint not in made:
            root = tmp_path_factory.mktemp("multi30k")
            for side in ("de", "en"):
                with gzip.open(_multi30k() / f"train.{side}.gz", "rt", encoding="utf-8") as file:
                    lines = [line for line, _ in zip(file, range(NUM_PAIRS), strict=False)]
                (root / f"train.{side}").write_text("".join(lines[20:]), "utf-8")
                (root / f"valid.{side}").write_text("".join(lines[:20]), "utf-8")
            train, valid = (
                PairPaths(root / f"{part}.de", root / f"{part}.en") for part in ("train", "valid")
            )
            options = DataConfig(
                vocab_size=1200,
                joint_vocabulary=joint,
                source_language="de",
                target_language="en",
            )
            preprocess(RunDirectory(root / "run"), [train], [valid], options)
            made[joint] = root / "run"
        return made[joint]

    return template


@pytest.fixture
def make_run(tmp_path: Path, _templates: Callable[[bool], Path]) -> MakeRun:
    """Make a run whose network is as the options say, with parameters far from their beginnings."""

    def make(**options: object) -> RunDirectory:
        model = dataclasses.replace(SMALL, **options)
        joint = model.tied_embeddings == "all"
        run = RunDirectory(shutil.copytree(_templates(joint), tmp_path / "run"))
        vocabularies = VocabularyPair.load(run.vocab)
        data = DataConfig(source_language="de", target_language="en", joint_vocabulary=joint)
        config = Config(data=data, model=model)
        torch.manual_seed(3)
        flat = FlatModel(build_model(model, vocabularies.source.size, vocabularies.target.size))
        flat.parameters.add_(torch.randn_like(flat.parameters), alpha=0.1)
        state = TrainingState(config, vocabularies.digest(), updates=7)
        save(run, Snapshot({"parameters": flat.parameters}, state), flat.layout)
        point(run, "best", 7)
        run.config.write_text(to_toml(config), "utf-8")
        return run

    return make
