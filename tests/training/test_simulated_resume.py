"""The same simulation gives the same state: twice, resumed, killed, or by other drivers."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.training.session import Session
from tests.support.processes import start_training, wait_for_line
from tests.support.runs import (
    assert_same_state,
    copy_of,
    events,
    final_state,
    simulate,
    train_toy,
    words_of_an_epoch,
)

EVENTFUL = {
    "asynchronous__optimizer_delay": 2,
    "asynchronous__local_optimizer_batches": "always",
    "simulation__speeds": "1,2,1.5",
    "simulation__speed_jitter": 0.3,
    "simulation__failures": "1@3-6,2@4.2-9,0@7-8.5,2@16",
    "simulation__seconds_per_target_word": 0.01,
    "simulation__exchange_latency_seconds": 0.05,
    "simulation__exchange_bytes_per_second": 1e6,
}
"""Everything at once: at 20 updates some workers compute, one is dead for good."""


def test_the_same_simulation_gives_the_same_state(toy_run):
    other = copy_of(toy_run)
    for run in (toy_run, other):
        simulate(run, training__max_updates=20, **EVENTFUL)
    assert_same_state(toy_run, other)


@pytest.mark.parametrize(
    ("rule", "overlap"),
    [("immediate", False), ("immediate", True), ("buffer+delay-compensation", True)],
)
def test_stopped_and_resumed_is_never_interrupted_bit_for_bit(toy_run, rule, overlap):
    other = copy_of(toy_run)
    options = {**EVENTFUL, "training__validate_every": 4, "asynchronous__rule": rule}
    options["asynchronous__overlap"] = overlap
    if rule != "immediate":  # other vectors of the server and the workers are kept, too
        options["asynchronous__drop_rate"] = 0.5
    simulate(toy_run, training__max_updates=20, **options)
    for updates in (5, 6, 11, 20):
        simulate(other, training__max_updates=updates, **options)
    assert_same_state(toy_run, other)
    vectors, state = final_state(toy_run)
    assert state["simulation"]["flights"] and "replica.0.0" in vectors, "or little was tested"
    assert ("replica.0.1" in vectors) == overlap
    happened = [(entry["worker"], entry["what"]) for entry in events(toy_run, "worker")]
    assert happened == [(entry["worker"], entry["what"]) for entry in events(other, "worker")]
    assert (1, "returned") in happened and (1, "died") in happened


def test_resumed_with_a_linear_decay_it_is_never_interrupted_bit_for_bit(toy_run, monkeypatch):
    """What is under way at the checkpoint keeps the learning rate that it was drawn for."""
    other = copy_of(toy_run)
    options = {**EVENTFUL, "schedule__decay": "linear", "training__max_epochs": 3}
    options["schedule__warmup_updates"] = 1
    with monkeypatch.context() as patch:
        stop_reason = Session.stop_reason

        def after_seven(self: Session):
            return "seven" if self.server.updates >= 7 else stop_reason(self)

        patch.setattr(Session, "stop_reason", after_seven)
        simulate(other, **options)
    simulate(other, **options)
    simulate(toy_run, **options)
    assert_same_state(toy_run, other)
    rates = [line["learning_rate"] for line in events(toy_run, "train")]
    assert rates[-1] < 0.5 * max(rates), "or it has not decayed"


@pytest.mark.processes
def test_killed_and_resumed_is_never_interrupted_bit_for_bit(toy_run):
    other = copy_of(toy_run)
    flags = [f"--set={name.replace('__', '.')}={value}" for name, value in EVENTFUL.items()]
    process = start_training(
        other, "--driver=simulated", *flags, "--validate-every=3", "--max-updates=100000"
    )
    wait_for_line(process, "validation of update")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    updates = store.pointed(other, "latest")
    assert updates
    for run in (toy_run, other):
        simulate(
            run,
            training__max_updates=updates + 7,
            training__validate_every=3,
            training__patience=None,
            **EVENTFUL,
        )
    assert_same_state(toy_run, other)


def test_resumed_at_the_moment_of_a_death_or_a_return_it_goes_on_alike(toy_run):
    """Worker 1 dies and returns when worker 0 pushes; training is stopped after each push."""
    other = copy_of(toy_run)
    options = {"simulation__speeds": "1,1", "simulation__failures": "1@2-4,1@5"}
    simulate(toy_run, training__max_updates=9, **options)
    for updates in range(1, 10):
        simulate(other, training__max_updates=updates, **options)
    assert_same_state(toy_run, other)
    for run in (toy_run, other):
        times = [(entry["what"], entry["time_seconds"]) for entry in events(run, "worker")]
        assert times == [("died", 2.0), ("returned", 4.0), ("died", 5.0)]


@pytest.mark.parametrize("delay", [1, 2])
def test_one_worker_of_speed_1_is_the_one_that_is_not_simulated(toy_run, delay):
    other = copy_of(toy_run)
    options = {
        "asynchronous__optimizer_delay": delay,
        "asynchronous__local_optimizer_batches": 5 if delay > 1 else 0,
        "training__max_updates": 12,
        "training__validate_every": 5,
    }
    train_toy(toy_run, **options)
    simulate(other, **options)
    (vectors, state), (simulated, simulated_state) = final_state(toy_run), final_state(other)
    assert vectors.keys() == simulated.keys()
    assert all(torch.equal(vectors[name], simulated[name]) for name in vectors)
    for key in ("cursor", "progress", "workers", "versions"):
        assert state[key] == simulated_state[key]
    measured, virtual = events(toy_run, "valid"), events(other, "valid")
    assert [v["cross_entropy"] for v in measured] == [v["cross_entropy"] for v in virtual]


def test_a_run_goes_from_one_driver_to_the_other_and_back(toy_run):
    train_toy(toy_run, training__max_updates=4)
    simulate(toy_run, simulation__speeds="1,2", training__max_updates=9)
    assert final_state(toy_run)[1]["simulation"]["flights"]
    summary = train_toy(
        toy_run,
        asynchronous__driver="local",
        simulation__speeds="1",
        training__max_epochs=1,
        training__max_updates=None,
    )
    assert summary.target_words == words_of_an_epoch(toy_run), "each batch exactly once"
