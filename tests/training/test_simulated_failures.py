"""Simulated workers that die and return: no batch is lost, none repeated."""

from __future__ import annotations

from collections import Counter

import pytest

from nmtasync.checkpoints import store
from nmtasync.errors import TrainingError
from nmtasync.training.session import Session
from tests.support.runs import events, final_state, simulate, words_of_an_epoch


def test_a_worker_that_dies_loses_no_batch_and_repeats_none(toy_run, monkeypatch, pushes):
    """Worker 1 is dead from 2.5 to 5 s and for good from 8 s on; worker 0 from 3.5 to 4.25 s."""
    used: Counter = Counter()
    exchange = Session.exchange

    def noted(self: Session, computed, payload, landing, *rest):
        used.update(self.cursor.held(computed.push.worker))
        return exchange(self, computed, payload, landing, *rest)

    monkeypatch.setattr(Session, "exchange", noted)
    summary = simulate(
        toy_run,
        simulation__speeds="1,1",
        simulation__failures="1@2.5-5,0@3.5-4.25,1@8",
        training__max_epochs=2,
    )
    assert pushes[:13] == [
        *((1.0, 0, 0), (1.0, 1, 1), (2.0, 0, 1), (2.0, 1, 1)),
        (3.0, 0, 1),  # worker 1, which died at 2.5, pushed at 2
        (5.25, 0, 0),  # died at 3.5 on the way to 4; fetched at 4.25, when nobody pushed
        (6.0, 1, 1),  # fetched at 5, before worker 0's push at 5.25
        (6.25, 0, 1),
        *((7.0, 1, 1), (7.25, 0, 1)),
        (8.0, 1, 1),  # a push that arrives when its worker dies counts
        (8.25, 0, 1),
        (9.25, 0, 0),
    ]
    assert set(used.values()) == {1}
    assert summary.target_words == 2 * words_of_an_epoch(toy_run)
    assert [(e["worker"], e["what"], e["time_seconds"]) for e in events(toy_run, "worker")] == [
        (1, "died", 2.5),
        (0, "died", 3.5),
        (0, "returned", 4.25),
        (1, "returned", 5.0),
        (1, "died", 8.0),
    ]


def test_the_last_batches_of_a_dead_worker_go_to_one_that_had_ended(toy_run, pushes):
    """Worker 1 needs 1000 s for its batch and dies at 500; the others have none left by then."""
    summary = simulate(
        toy_run,
        simulation__speeds="1,0.001,0.01",
        simulation__failures="1@500",
        training__max_epochs=1,
    )
    assert summary.target_words == words_of_an_epoch(toy_run)
    assert [who for _, who, _ in pushes[:-2]] == [0] * (len(pushes) - 2)
    assert pushes[-2] == (100.0, 2, len(pushes) - 2)
    assert pushes[-1] == (501.0, 0, 0), "it has fetched what worker 2 pushed when it had ended"


def test_a_worker_that_returns_has_lost_its_local_optimizer(toy_run):
    """A window takes 2 s. Worker 1 pushes at 2 s, dies at 3, returns at 5, pushes at 7 and 9."""
    simulate(
        toy_run,
        asynchronous__optimizer_delay=2,
        asynchronous__local_optimizer_batches="always",
        simulation__speeds="1,1",
        simulation__failures="1@3-5",
        training__max_updates=7,
    )
    counts = final_state(toy_run)[1]["workers"]
    assert (counts["0"]["batches"], counts["0"]["local_updates"]) == (8, 8)
    assert (counts["1"]["batches"], counts["1"]["local_updates"]) == (6, 4)


def test_when_all_workers_are_dead_training_ends_and_is_saved(toy_run):
    dead = {"simulation__speeds": "1,1", "simulation__failures": "0@2.5,1@3"}
    with pytest.raises(TrainingError, match=r"no worker is left after 3 virtual seconds"):
        simulate(toy_run, **dead)
    # 2 pushes each at 1 and 2 s, and worker 1's at 3 s, in the moment of its death
    assert store.pointed(toy_run, "latest") == 5
    summary = simulate(
        toy_run,
        **{**dead, "simulation__failures": "0@2.5-10,1@3"},
        training__max_updates=6,
    )
    assert summary.updates == 6 and summary.seconds == 11.0
