"""Simulated synchronous workers: the parameters of one worker, the time of the slowest."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.training.session import Session
from tests.support.runs import (
    assert_same_state,
    copy_of,
    final_state,
    learnt,
    simulate,
    train_toy,
    words_of_an_epoch,
)

UNEVEN = {
    "simulation__synchronous": True,
    "simulation__speeds": "1,2,0.5",
    "simulation__seconds_per_target_word": 0.01,
    "simulation__exchange_latency_seconds": 0.05,
    "simulation__exchange_bytes_per_second": 1e6,
}


def test_n_synchronous_workers_are_one_worker_with_n_times_the_delay(toy_run):
    one = copy_of(toy_run)
    simulate(toy_run, **UNEVEN, asynchronous__optimizer_delay=2, training__max_updates=7)
    simulate(one, asynchronous__optimizer_delay=6, training__max_updates=7)
    (vectors, state), (other, other_state) = final_state(toy_run), final_state(one)
    assert all(torch.equal(vectors[name], other[name]) for name in other)
    assert state["cursor"] == other_state["cursor"]
    assert learnt(state) == learnt(other_state)


def test_a_round_takes_what_its_slowest_worker_takes(toy_run, monkeypatch):
    drawn, clocks = [], []
    draw, exchange = Session.next_window, Session.exchange

    def noted_draw(self: Session, worker: int):
        window = draw(self, worker)
        drawn.append((worker, window))
        return window

    def noted_exchange(self: Session, computed, payload, *rest):
        clocks.append((self.seconds, 4 * payload.numel()))
        return exchange(self, computed, payload, *rest)

    monkeypatch.setattr(Session, "next_window", noted_draw)
    monkeypatch.setattr(Session, "exchange", noted_exchange)
    summary = simulate(toy_run, **UNEVEN, asynchronous__optimizer_delay=2, training__max_updates=5)
    lengths = ParallelShards.open(toy_run.data / "train").target_lengths
    speeds = {0: Fraction(1), 1: Fraction(2), 2: Fraction(1, 2)}
    time, busy_first = Fraction(0), Fraction(0)
    for number, (seconds, num_bytes) in enumerate(clocks):
        busy = []
        for worker, window in drawn[3 * number : 3 * number + 3]:
            words = sum(int(lengths[i]) + 1 for batch in window for i in batch.sentences)
            busy.append((len(window) + Fraction(words, 100)) / speeds[worker])
        assert busy[2] == max(busy)
        time += max(busy) + 2 * (Fraction(1, 20) + Fraction(num_bytes, 1_000_000))
        busy_first += busy[0]
        assert seconds == float(time)
    assert len(clocks) == summary.updates == 5
    assert summary.workers[0].computing == pytest.approx(float(busy_first / time), abs=1e-4)
    assert summary.workers[1].computing < summary.workers[0].computing
    assert summary.workers[2].waiting < 0.2 < summary.workers[1].waiting


def test_stopped_and_resumed_is_never_interrupted(toy_run):
    other, jitter = copy_of(toy_run), {"simulation__speed_jitter": 0.3}
    whole = simulate(toy_run, **UNEVEN, **jitter, training__max_updates=9)
    for updates in (4, 9):
        summary = simulate(other, **UNEVEN, **jitter, training__max_updates=updates)
    assert_same_state(toy_run, other)
    assert summary.seconds == whole.seconds


def test_each_batch_is_used_once_though_virtual_time_runs_out_between(toy_run):
    simulate(toy_run, **UNEVEN, training__max_epochs=1, training__max_minutes=0.2)
    _, state = final_state(toy_run)
    assert state["time_seconds"] == 12.0 and state["epoch"] < 1
    summary = simulate(toy_run, training__max_minutes=None, **UNEVEN, training__max_epochs=1)
    assert summary.target_words == words_of_an_epoch(toy_run)
    assert store.pointed(toy_run, "latest") == summary.updates


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"asynchronous__rule": "buffer"}, r"asynchronous\.rule.*simulation\.synchronous"),
        ({"simulation__failures": "0@5-9"}, r"failures.*simulation\.synchronous is true"),
        ({"simulation__replay": "x"}, r"simulation\.synchronous.*simulation\.replay"),
        ({"asynchronous__driver": "local"}, r"synchronous.*asynchronous\.driver is 'local'"),
    ],
)
def test_what_only_asynchronous_workers_have_is_refused(toy_run, options, words):
    simulated = {"asynchronous__driver": "simulated", "simulation__synchronous": True}
    with pytest.raises(UserError, match=words):
        train_toy(toy_run, **{**simulated, **options})
