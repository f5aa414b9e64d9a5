"""Training a toy RUN, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil

import torch
from rich.console import Console
from safetensors.torch import load_file

from nmtasync.checkpoints import store
from nmtasync.data.shards import ParallelShards
from nmtasync.run_directory import RunDirectory
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.training.train import train
from tests.support.toy import TOY_MODEL


def train_with(
    run: RunDirectory, settings: dict[str, object], *, resume: bool = True
) -> TrainingSummary:
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    return train(run, settings, resume=resume, console=console)


def train_toy(run: RunDirectory, *, resume: bool = True, **changes: object) -> TrainingSummary:
    settings = {**TOY_MODEL, **{key.replace("__", "."): v for key, v in changes.items()}}
    return train_with(run, settings, resume=resume)


def events(run: RunDirectory, event: str) -> list[dict]:
    lines = (run.logs / "metrics.jsonl").read_text("utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def final_state(run: RunDirectory) -> tuple[dict[str, torch.Tensor], dict]:
    latest = store.pointed(run, "latest")
    path = run.checkpoints / str(latest)
    state = json.loads((path / "state.json").read_text("utf-8"))
    return load_file(path / "training.safetensors"), state


def words_of_an_epoch(run: RunDirectory) -> int:
    """All target pieces of the corpus, and an end for each sentence."""
    corpus = ParallelShards.open(run.data / "train")
    return int(corpus.target_lengths.sum()) + len(corpus)


def simulate(run: RunDirectory, *, resume: bool = True, **changes: object) -> TrainingSummary:
    return train_toy(run, resume=resume, asynchronous__driver="simulated", **changes)


def copy_of(run: RunDirectory) -> RunDirectory:
    return RunDirectory(shutil.copytree(run.root, run.root.with_name("copy")))


def assert_same_state(left: RunDirectory, right: RunDirectory) -> None:
    (vectors, state), (other_vectors, other_state) = final_state(left), final_state(right)
    assert vectors.keys() == other_vectors.keys()
    for name, vector in vectors.items():
        assert torch.equal(vector, other_vectors[name]), name
    for key in ("cursor", "progress", "workers", "versions", "virtual_seconds", "simulation"):
        assert state.get(key) == other_state.get(key), key


def learnt(state: dict) -> dict[str, int]:
    """What a state says was trained on; what was exchanged for it differs between drivers."""
    return {name: n for name, n in state["progress"].items() if not name.startswith("bytes_")}


def assert_same_vectors(left: RunDirectory, right: RunDirectory) -> None:
    """Compare what both latest checkpoints have."""
    vectors, others = final_state(left)[0], final_state(right)[0]
    assert {"parameters", "average"} <= vectors.keys() & others.keys()
    for name in vectors.keys() & others.keys():
        assert torch.equal(vectors[name], others[name]), name
