"""Checkpoints and logs of exchanges that version 0.1 wrote are read, and mean what they meant.

`format_1/` was made with that version: RUN after five updates of two simulated workers of unequal
speed, one of which had died and come back, with a buffer, local optimizers and windows under way
(`resumed.safetensors` has what its parameters became after twelve), and the log of two real
workers that made fifteen updates on the same data (`recorded.safetensors`). On the machine that
made them the results are equal to the bit; elsewhere other kernels round differently. Moving
averages are not compared: that version weighed updates alike, whatever their words.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nmtasync.checkpoints.load import load_model, read_state
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from tests.support.runs import final_state, train_with

HERE = Path(__file__).parent / "format_1"

AS_RECORDED = {
    "asynchronous.rule": "immediate",
    "asynchronous.local_optimizer_batches": 0,
    "simulation.speeds": "1",
    "simulation.failures": None,
    "training.max_updates": None,
    "simulation.replay": str(HERE / "exchanges.jsonl"),
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(HERE / "run", tmp_path / "run"))


def assert_close(run: RunDirectory, updates: int, expected: str) -> None:
    model = load_model(run, str(updates))[0]
    FlatModel(model).parameters.copy_(final_state(run)[0]["parameters"])
    parameters = dict(model.named_parameters())
    for name, value in load_file(HERE / expected).items():
        left, right = (without_key_biases(name, v) for v in (parameters[name].data, value))
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def without_key_biases(name: str, value: torch.Tensor) -> torch.Tensor:
    """Leave out what a softmax takes no notice of: its gradient is nothing but rounding.

    Adam makes whole steps of that, in directions that differ from machine to machine.
    """
    if name.endswith("attention.inputs.bias"):
        queries, _, values = value.chunk(3)
        return torch.cat([queries, values])
    if name.endswith("cross.keys_values.bias"):
        return value.chunk(2)[1]
    return value


def test_what_a_checkpoint_says(run):
    state = read_state(run, 5, VocabularyPair.load(run.vocab).digest())
    assert (state.updates, state.totals.pushes, state.cursor.epoch) == (5, 10, 2)
    assert sum(numbers["batches"] for numbers in state.workers.values()) == state.totals.batches
    assert state.last_sequences.keys() == state.workers.keys() == {0, 1}
    assert state.config.model.dimension == 8 and state.config.asynchronous.rule == "buffer"
    (window,) = state.driver["simulation"]["flights"]
    assert window["batches"] == [[2, 2], [2, 3]], "under way"
    assert state.virtual_seconds is not None
    assert state.to_json()["rule"].keys() == {
        "buffer_filled",
        "buffer_target_words",
        "buffer_staleness",
    }


def test_training_goes_on_as_it_would_have(run):
    train_with(run, {"training.max_updates": 12})
    assert_close(run, 12, "resumed.safetensors")
    assert final_state(run)[1]["updates"] == 12


def test_a_recorded_run_is_replayed(run):
    summary = train_with(run, AS_RECORDED, resume=False)
    assert summary.updates == 15
    assert_close(run, 15, "recorded.safetensors")
