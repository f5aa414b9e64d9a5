"""Windows that follow the noise of gradients and the cost of an exchange."""

from __future__ import annotations

import pytest
import torch

from nmtasync.config.load import resolve
from nmtasync.config.schema import AsynchronousConfig
from nmtasync.data.batches import plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.training.delay import Delay
from nmtasync.worker.window import WindowFigures
from tests.support.replays import log_of, replay
from tests.support.runs import (
    assert_same_state,
    copy_of,
    events,
    final_state,
    simulate,
    train_toy,
    words_of_an_epoch,
)

AUTO = {
    "asynchronous__optimizer_delay": "auto",
    "schedule__words_scaling": "sqrt",
    "schedule__reference_words": "auto",
    "optimizer__betas_by_words": True,
}
SLOW_EXCHANGE = {
    "simulation__speeds": "1,1.3",
    "simulation__seconds_per_batch": 0.1,
    "simulation__exchange_latency_seconds": 0.3,
    "training__max_updates": 260,
    "training__log_every_seconds": 5.0,
}


def window(num_batches: int, words: int, seconds: float, idle: float | None) -> WindowFigures:
    return WindowFigures(0, num_batches, words, words, 1.0, 1.0, seconds, idle_seconds=idle)


def delay(num_workers: int = 4, max_delay: int = 64) -> Delay:
    """One that has seen windows of 3 batches, 40 words and 0.2 s each, and exchanges of 0.5 s."""
    config = AsynchronousConfig(optimizer_delay="auto", max_delay=max_delay)
    chooser = Delay(config, num_workers)
    for _ in range(5):
        chooser.see(window(3, 120, 0.6, 0.5), 99.0)
    return chooser


@pytest.mark.parametrize("noise", [300.0, 5_000.0, 90_000.0])
@pytest.mark.parametrize("num_workers", [1, 4])
def test_the_chosen_window_takes_the_least_time(noise, num_workers):
    """Of all delays, by the model that is meant, or next to it where a root was rounded."""

    def seconds(batches: int) -> float:
        words = 40 * batches
        return (1 + num_workers * words / noise) * (0.2 / 40 + 0.5 / words)

    best = min(range(1, 65), key=seconds)
    chosen = delay(num_workers).choose(0, noise)
    assert abs(chosen - best) <= 1 and seconds(chosen) < 1.01 * seconds(best)


def test_windows_grow_with_the_noise_and_stay_within_bounds():
    chooser = delay(max_delay=7)
    chosen = [chooser.choose(0, noise) for noise in (1.0, 250.0, 500.0, 1e3, 2e9)]
    assert chosen == sorted(chosen) and chosen[0] == 1 and chosen[-1] == 7 and len(set(chosen)) == 5


def test_where_the_noise_is_unknown_nothing_changes():
    chooser = delay()
    assert chooser.choose(0, None) == 1
    before = chooser.choose(0, 2e4)
    assert before > 1 and chooser.choose(0, None) == before


def test_an_exchange_that_is_hidden_costs_nothing():
    chooser = Delay(AsynchronousConfig(optimizer_delay="auto"), 2)
    chooser.see(window(1, 40, 0.2, 0.0), 0.5)
    assert chooser.choose(0, 1e9) == 1
    shown = Delay(AsynchronousConfig(optimizer_delay="auto"), 2)
    shown.see(window(1, 40, 0.2, None), 0.5)  # one that does not know takes what the server took
    assert shown.choose(0, 1e9) == 16


def test_a_number_is_what_it_says():
    chooser = Delay(AsynchronousConfig(optimizer_delay=3), 4)
    assert chooser.choose(0, 1e9) == 3


def test_it_goes_on_from_what_it_has_seen():
    first, second = delay(), Delay(AsynchronousConfig(optimizer_delay="auto"), 4)
    first.choose(0, 5e3)
    second.restore(first.to_json())
    assert second.to_json() == first.to_json()
    assert second.choose(0, None) == first.chosen


def chosen_in(run) -> list[float]:
    return [entry["batches_per_push"] for entry in events(run, "train")]


def test_simulated_windows_follow_the_noise_where_exchanges_are_slow(toy_run):
    """And the learning rate follows the windows: it is that of the words of two workers."""
    simulate(toy_run, **AUTO, **SLOW_EXCHANGE)
    delays = chosen_in(toy_run)
    assert delays[0] == 1.0 and max(delays) >= 2
    last = events(toy_run, "train")[-1]
    _, state = final_state(toy_run)
    assert state["measured"]["delay"]["chosen"] >= 2
    reference = state["config"]["schedule"]["reference_words"]
    corpus = ParallelShards.open(toy_run.data / "train")
    lengths = corpus.source_lengths, corpus.target_lengths
    batches = len(plan_epoch(*lengths, batch_tokens=120, seed=1, epoch=0))
    assert reference == pytest.approx(2 * words_of_an_epoch(toy_run) / batches, abs=1)
    updates = last["updates"]
    peak = 1e-3 * min(1, updates / 400)
    words = (last["learning_rate"] / peak) ** 2 * reference
    assert 0.4 * last["target_words_per_update"] < words < 2.5 * last["target_words_per_update"]


def test_where_exchanges_take_no_time_windows_stay_one_batch(toy_run):
    options = {**SLOW_EXCHANGE, "simulation__exchange_latency_seconds": 0.0}
    simulate(toy_run, **AUTO, **options)
    assert set(chosen_in(toy_run)) == {1.0}


def test_stopped_and_resumed_windows_are_never_interrupted_bit_for_bit(toy_run):
    """Wherever a stop falls: between the two of a pair, too, and after windows have grown."""
    other = copy_of(toy_run)
    options = {**AUTO, **SLOW_EXCHANGE, "training__validate_every": 1000}
    simulate(toy_run, **options)
    for updates in (101, 103, 204, 260):
        simulate(other, **{**options, "training__max_updates": updates})
    assert_same_state(toy_run, other)
    (_, left), (_, right) = final_state(toy_run), final_state(other)
    assert left["measured"] == right["measured"]
    assert left["measured"]["delay"]["chosen"] >= 2, "or nothing was tested"


@pytest.mark.processes
def test_a_recorded_run_with_windows_of_its_own_choice_is_replayed_bit_for_bit(toy_run):
    options = {**AUTO, "asynchronous__devices": "cpu,cpu", "training__max_updates": 150}
    recorded = copy_of(toy_run)
    train_toy(recorded, **options)
    same = {"asynchronous__local_optimizer_batches": 0, "schedule__decay": "inverse-sqrt"}
    replay(toy_run, log_of(recorded), **{**AUTO, **same, "training__max_updates": 150})
    (left, _), (right, _) = final_state(recorded), final_state(toy_run)
    assert torch.equal(left["parameters"], right["parameters"])


def test_synchronous_workers_have_no_windows_to_choose():
    with pytest.raises(UserError, match=r"optimizer_delay: is 'auto'.*synchronous"):
        resolve({"asynchronous.optimizer_delay": "auto", "asynchronous.driver": "synchronous"})
    with pytest.raises(UserError, match=r"max_delay: has no effect.*optimizer_delay"):
        resolve({"asynchronous.max_delay": 4})
