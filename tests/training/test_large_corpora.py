"""Training on a corpus of several stretches, and of several corpora with weights.

A stretch has 64 pairs here, so that the toy corpus of 300 has five.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from nmtasync.data import epochs
from nmtasync.data.epochs import Mixture
from nmtasync.data.shards import ParallelShards
from nmtasync.run_directory import RunDirectory
from nmtasync.training.session import Session
from tests.support.replays import assert_replayed, log_of, replay, train_until_both_have_pushed
from tests.support.runs import (
    assert_same_state,
    copy_of,
    final_state,
    simulate,
    train_toy,
    words_of_an_epoch,
)

EVENTFUL = {
    "asynchronous__optimizer_delay": 2,
    "simulation__speeds": "1,2,1.5",
    "simulation__failures": "1@3-6,2@4.2-9,0@7-8.5,2@16",
}
WEIGHTED = [
    {"name": "news", "pairs": 120, "weight": 1.5},
    {"name": "web", "pairs": 150, "weight": 0.3},
    {"name": "talks", "pairs": 30, "weight": 2.0},
]


@pytest.fixture(autouse=True)
def _small_stretches(monkeypatch):
    monkeypatch.setattr(epochs, "STRETCH_PAIRS", 64)


def weigh(run: RunDirectory) -> None:
    path = run.data / "train" / "shards.json"
    description = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**description, "corpora": WEIGHTED}), "utf-8")


@pytest.mark.parametrize("weighted", [False, True])
def test_stopped_and_resumed_is_never_interrupted_bit_for_bit(toy_run, weighted):
    if weighted:
        weigh(toy_run)
    other = copy_of(toy_run)
    options = {"data__batch_tokens": 40, "asynchronous__optimizer_delay": 3}
    options["training__validate_every"] = 1000
    train_toy(toy_run, training__max_updates=33, **options)
    for updates in (1, 2, 9, 10, 23, 33):
        train_toy(other, training__max_updates=updates, **options)
    assert_same_state(toy_run, other)
    cursor = final_state(toy_run)[1]["cursor"]
    assert cursor["epoch"] >= 1 and cursor["stretch_pairs"] == 64
    assert cursor["position"] > 64 and cursor["position"] % 64, "or little was tested"


@pytest.mark.parametrize("weighted", [False, True])
def test_workers_that_die_and_stops_lose_no_pair_and_repeat_none(toy_run, monkeypatch, weighted):
    if weighted:
        weigh(toy_run)
    used: dict[int, Counter[int]] = {0: Counter(), 1: Counter()}
    exchange, drawn = Session.exchange, {}
    next_window = Session.next_window

    def noted_window(self: Session, worker, slot=0):
        drawn[worker] = next_window(self, worker, slot)
        return drawn[worker]

    def noted(self: Session, computed, payload, landing, *rest):
        for batch in drawn[computed.push.worker]:
            used[batch.epoch].update(batch.sentences.tolist())
        return exchange(self, computed, payload, landing, *rest)

    monkeypatch.setattr(Session, "next_window", noted_window)
    monkeypatch.setattr(Session, "exchange", noted)
    summary = simulate(toy_run, training__max_epochs=2, **EVENTFUL)
    assert summary.epochs == 2
    corpus = ParallelShards.open(toy_run.data / "train")
    mixture = Mixture(corpus.corpora, seed=1)
    for epoch, counts in used.items():
        places = np.arange(mixture.size(epoch))
        assert counts == Counter(mixture.pairs(epoch, places).tolist())
    if not weighted:
        assert summary.target_words == 2 * words_of_an_epoch(toy_run)


def test_a_simulation_with_windows_under_way_goes_on_bit_for_bit(toy_run):
    other = copy_of(toy_run)
    options = {**EVENTFUL, "training__validate_every": 4}
    simulate(toy_run, training__max_updates=40, **options)
    for updates in (5, 6, 11, 20, 40):
        simulate(other, training__max_updates=updates, **options)
    assert_same_state(toy_run, other)


@pytest.mark.processes
def test_a_run_of_two_workers_is_replayed_bit_for_bit(toy_run):
    recorded = copy_of(toy_run)
    train_until_both_have_pushed(recorded, 20)
    replay(toy_run, log_of(recorded), training__max_updates=9)
    replay(toy_run, log_of(recorded), training__max_updates=None)
    assert_replayed(recorded, toy_run)


def test_what_counted_stretches_otherwise_goes_on_with_the_next_epoch(toy_run, monkeypatch):
    """As a checkpoint in the middle of an epoch that was planned as a whole."""
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "STRETCH_PAIRS", 1000)
        train_toy(toy_run, training__max_updates=5)
    assert final_state(toy_run)[1]["cursor"]["position"] == 5
    summary = train_toy(toy_run, training__max_updates=None, training__max_epochs=2)
    assert summary.epochs == 2
    assert summary.target_words > words_of_an_epoch(toy_run) * 1.2
