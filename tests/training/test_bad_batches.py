"""Batches whose gradients are not finite: dropped, counted, and kept to look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nmtasync.data.epochs import plan_corpus
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import TrainingError
from nmtasync.run_directory import RunDirectory
from nmtasync.training.reporting import bad_batches
from nmtasync.worker.gradient import WindowGradient
from tests.support.command_line import CommandLine
from tests.support.replays import log_of, replay
from tests.support.runs import copy_of, events, final_state, simulate, train_toy
from tests.support.toy import TOY_FLAGS, toy_config

BAD = 3
"""The batch of the first epoch that is made a bad one."""
PARAMETER = "encoder.0.attention_norm.weight"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch's gradient overflow in one parameter."""
    add = WindowGradient.add_assigned

    def overflowing(self: WindowGradient, assigned, batch=None):
        figures = add(self, assigned, batch)
        if (assigned.epoch, assigned.index) == (0, BAD):
            self.flat.layout.views(self.flat.gradients)[PARAMETER][0] = torch.inf
        return figures

    monkeypatch.setattr(WindowGradient, "add_assigned", overflowing)


def kept(run: RunDirectory) -> list[dict]:
    files = sorted((run.logs / "bad-batches").glob("*.json"))
    return [json.loads(file.read_text("utf-8")) for file in files]


def assert_kept(run: RunDirectory, toy_corpus: Path) -> dict:
    """Just the bad batch is there, with the sentences that it was made of."""
    (batch,) = kept(run)
    corpus = ParallelShards.open(run.data / "train")
    sentences = plan_corpus(corpus, toy_config())[BAD]
    assert (batch["epoch"], batch["batch"]) == (0, BAD)
    assert [sentence["number"] for sentence in batch["sentences"]] == sentences.tolist()
    for side, suffix in (("source", "src"), ("target", "tgt")):
        lines = (toy_corpus / f"train.{suffix}").read_text("utf-8").splitlines()
        for sentence in batch["sentences"]:
            assert sentence[side] == lines[sentence["number"]]
            pieces = sentence[f"{side}_pieces"].replace(" ", "").replace("▁", " ")
            assert pieces.strip() == sentence[side]
    assert 1 < batch["loss"] < 9
    assert batch["parameters"] == [PARAMETER]
    return batch


def check_counts(run: RunDirectory, worker: int | None = None) -> None:
    (entry,) = events(run, "worker")
    assert "dropped a non-finite gradient; kept to look at: " in entry["what"]
    assert worker is None or entry["worker"] == worker
    assert final_state(run)[1]["progress"]["non_finite_pushes"] == 1
    assert sum(line["non_finite_pushes"] for line in events(run, "train")) == 1
    assert events(run, "end")[-1]["non_finite_pushes"] == 1


EVERY_LINE = {"training__log_every_seconds": 0.0}


@pytest.mark.parametrize("delay", [1, 3])
def test_of_a_window_just_the_bad_batch_is_kept(toy_run, toy_corpus, poisoned, delay):
    options = {"asynchronous__optimizer_delay": delay, **EVERY_LINE}
    summary = train_toy(toy_run, training__max_epochs=1, **options)
    batch = assert_kept(toy_run, toy_corpus)
    check_counts(toy_run, worker=0)
    assert batch["updates"] == BAD // delay
    assert summary.non_finite_pushes == 1
    train_toy(toy_run, training__max_epochs=2, **options)
    assert final_state(toy_run)[1]["progress"]["non_finite_pushes"] == 1, "over resumes"


@pytest.mark.parametrize("synchronous", [False, True])
def test_simulated_workers_keep_theirs(toy_run, toy_corpus, poisoned, synchronous):
    options = {"simulation__synchronous": synchronous, **EVERY_LINE}
    simulate(toy_run, simulation__speeds="1,1,1", training__max_epochs=1, **options)
    batch = assert_kept(toy_run, toy_corpus)
    check_counts(toy_run, worker=batch["worker"])


def test_a_replay_keeps_them_too(toy_run, toy_corpus, poisoned):
    other = copy_of(toy_run)
    train_toy(toy_run, training__max_epochs=1)
    settings = {"asynchronous__optimizer_delay": 1, "asynchronous__local_optimizer_batches": 0}
    replay(other, log_of(toy_run), schedule__decay="inverse-sqrt", **settings, **EVERY_LINE)
    assert_kept(other, toy_corpus)
    check_counts(other)
    assert kept(other) == kept(toy_run)


@pytest.mark.processes
@pytest.mark.parametrize("driver", ["local", "synchronous"])
def test_processes_keep_theirs(toy_run, driver):
    """Parameters that one update has made infinite make every batch a bad one."""
    options = {"schedule__learning_rate": 1e30, "schedule__warmup_updates": 1}
    two = {"asynchronous__devices": "cpu,cpu", "asynchronous__driver": driver}
    with pytest.raises(TrainingError, match="diverged"):
        train_toy(toy_run, **two, **options)
    batches = kept(toy_run)
    assert len(batches) == bad_batches.MAX_FILES
    assert {batch["worker"] for batch in batches} == {0, 1}
    assert all(batch["loss"] in ("nan", "inf") or batch["loss"] > 0 for batch in batches)
    assert all(len(batch["parameters"]) > 1 and batch["sentences"] for batch in batches)


def test_files_of_earlier_calls_give_way(toy_run, poisoned, monkeypatch):
    monkeypatch.setattr(bad_batches, "MAX_FILES", 2)
    directory = toy_run.logs / "bad-batches"
    directory.mkdir(parents=True)
    for number in range(4):
        (directory / f"{number}.json").write_text("{}")
    train_toy(toy_run, training__max_epochs=1)
    assert len(kept(toy_run)) == 2
    assert (directory / f"update-{BAD}-batch-0-{BAD}.json").exists()


def test_the_command_line_says_how_many_and_where(toy_run, nmtasync: CommandLine, poisoned):
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-epochs=1")
    assert result.returncode == 0, result.stderr
    file = f"{toy_run.root}/logs/bad-batches/update-{BAD}-batch-0-{BAD}.json"
    assert f"worker 0 dropped a non-finite gradient; kept to look at: {file}" in result.stderr
    assert f"1 non-finite gradients; see {toy_run.root}/logs/bad-batches" in result.stdout
    second = nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-epochs=2", "--json")
    assert json.loads(second.stdout)["non_finite_pushes"] == 1
