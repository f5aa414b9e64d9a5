"""The share of padding that is reported is that of the batches that were trained on."""

from __future__ import annotations

import json

import pytest

from nmtasync.data.epochs import plan_corpus
from nmtasync.data.shards import ParallelShards
from nmtasync.run_directory import RunDirectory
from tests.support.runs import events, final_state, simulate, train_toy
from tests.support.toy import TOY_FLAGS, toy_config


def of_the_first_epoch(run: RunDirectory) -> tuple[int, float]:
    """How much padding there is, and its share, by counting sentence by sentence."""
    corpus = ParallelShards.open(run.data / "train")
    sides = corpus.source_lengths.tolist(), corpus.target_lengths.tolist()
    words = places = 0
    for ids in plan_corpus(corpus, toy_config()):
        for lengths in sides:
            widths = [lengths[i] + 1 for i in ids.tolist()]
            words += sum(widths)
            places += len(widths) * max(widths)
    return places - words, (places - words) / places


def assert_reported(run: RunDirectory, share: float | None) -> None:
    padding, expected = of_the_first_epoch(run)
    assert 0.01 < expected < 0.5, "or nothing is tested"
    assert share == pytest.approx(expected)
    assert events(run, "end")[-1]["padding"] == share
    assert final_state(run)[1]["progress"]["padding"] == padding


def test_it_is_in_the_log_the_summary_and_its_json(toy_run, nmtasync):
    once = ["--max-epochs=1", "--set=training.log_every_seconds=1000"]
    ended = nmtasync("train", toy_run.root, *TOY_FLAGS, *once, "--json")
    assert_reported(toy_run, json.loads(ended.stdout)["padding"])
    (line,) = events(toy_run, "train")
    assert line["padding"] == events(toy_run, "end")[-1]["padding"]
    ended = nmtasync("train", toy_run.root)
    assert f"padding:      {line['padding']:.1%} of what was computed" in ended.stdout


def test_a_simulation_counts_it_over_resumes_with_windows_computed_in_part(toy_run):
    options = {
        "asynchronous__optimizer_delay": 4,
        "asynchronous__local_optimizer_batches": "always",
        "asynchronous__local_write_back": True,
        "simulation__speeds": "1,1.3",
        "training__max_epochs": 1,
    }
    simulate(toy_run, training__max_updates=2, **options)
    assert final_state(toy_run)[1]["simulation"]["open"], "a window is computed in part"
    assert_reported(toy_run, simulate(toy_run, training__max_updates=None, **options).padding)


@pytest.mark.processes
@pytest.mark.parametrize("driver", ["local", "synchronous"])
def test_processes_of_workers_count_theirs(toy_run, driver):
    options = {"asynchronous__devices": "cpu,cpu", "asynchronous__driver": driver}
    assert_reported(toy_run, train_toy(toy_run, training__max_epochs=1, **options).padding)
