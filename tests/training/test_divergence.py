"""Training that goes astray: what is noticed, what is not, and which checkpoint is left."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.errors import TrainingError
from nmtasync.run_directory import RunDirectory
from nmtasync.server.rules import immediate
from nmtasync.training import divergence
from nmtasync.training.divergence import (
    MARGIN,
    MAX_UNUSABLE_PUSHES,
    PATIENCE_PUSHES,
    TRUSTED_PUSHES,
    Divergence,
)
from nmtasync.training.session import Session
from tests.support.runs import events, final_state, train_toy

QUICK = {"RECENT_PUSHES": 4, "USUAL_PUSHES": 10, "PATIENCE_PUSHES": 12, "TRUSTED_PUSHES": 6}


def falling(number: int, seed: int = 1) -> list[float]:
    """Losses from 9 down to 2 nats, with as much noise as small batches have."""
    rng = random.Random(seed)
    return [2 + 7 * math.exp(-push / 300) + rng.gauss(0, 0.5) for push in range(number)]


def watched(losses: list[float], watch: Divergence | None = None) -> Divergence:
    watch = watch or Divergence()
    for loss in losses:
        watch.see(loss)
    return watch


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_falls_and_rises_by_less_than_the_margin_is_no_reason_for_doubt(seed):
    losses = falling(1000, seed)
    losses += [loss + 0.75 * MARGIN for loss in falling(1000, seed + 9)[700:]]
    watch = Divergence()
    for loss in losses:
        watch.see(loss)
        assert not watch.doubtful and watch.verdict is None


@pytest.mark.parametrize("spike", [1e30, math.inf, math.nan])
def test_single_pushes_prove_nothing_however_bad_they_are(spike):
    watch = Divergence()
    for push, loss in enumerate(falling(900)):
        watch.see(spike if push % 20 == 7 else loss)
        assert not watch.doubtful


@pytest.mark.parametrize("loss", [7.0, 1e9, math.nan])
def test_a_loss_that_stays_far_above_is_divergence(loss):
    watch = watched([*falling(900), *[loss] * 20])
    assert watch.doubtful and watch.verdict is None
    pushes = 20
    while watch.verdict is None:
        watch.see(loss)
        pushes += 1
    assert PATIENCE_PUSHES < pushes < PATIENCE_PUSHES + 20


def test_a_loss_that_explodes_at_once_is_divergence_too():
    losses = [9.0, 5e3, *[1e5] * (PATIENCE_PUSHES + 60)]
    assert watched(losses).verdict is not None


def test_gradients_in_a_row_count_and_one_that_is_finite_ends_the_row():
    watch = watched(falling(50))
    for _ in range(3):
        for _ in range(MAX_UNUSABLE_PUSHES - 1):
            watch.see_unusable()
        assert watch.doubtful and watch.verdict is None
        watch.see(8.0)
        assert not watch.doubtful
    for _ in range(MAX_UNUSABLE_PUSHES):
        watch.see_unusable()
    assert watch.verdict is not None


def test_a_checkpoint_is_good_when_there_is_no_doubt_for_a_while_after_it():
    losses = falling(3 * TRUSTED_PUSHES)
    watch = Divergence()
    goods = []
    for update, loss in enumerate(losses, start=1):
        watch.see(loss)
        if update % 40 == 0:
            watch.snapshot(update)
            watch.written(update)
        assert watch.good is None or watch.good + TRUSTED_PUSHES <= update
        goods.append(watch.good)
    assert [good for good in dict.fromkeys(goods) if good] == [40, 160]
    watch.snapshot(len(losses))
    for _ in range(3 * TRUSTED_PUSHES):
        watch.see(20.0)
    assert watch.good == 160 and set(watch.needed) == {160, 280}


def test_a_checkpoint_that_is_not_written_yet_is_not_good():
    watch = watched(falling(100))
    watch.snapshot(100)
    watched(falling(2 * TRUSTED_PUSHES), watch)
    assert watch.good is None
    watch.written(100)
    assert watched([8.0], watch).good == 100


def test_what_was_seen_is_kept_over_a_resume():
    losses = [*falling(500), *[12.0] * (PATIENCE_PUSHES + 100)]
    whole, parts = Divergence(), Divergence()
    for loss in losses:
        whole.see(loss)
        kept = json.loads(json.dumps(parts.to_json()))
        parts = Divergence()
        parts.restore(kept)
        parts.see(loss)
        assert parts.to_json() == whole.to_json()
        assert (parts.doubtful, parts.verdict) == (whole.doubtful, whole.verdict)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, pushes in QUICK.items():
        monkeypatch.setattr(divergence, name, pushes)
    monkeypatch.setattr(divergence, "MARGIN", 0.5)


def explode(
    monkeypatch: pytest.MonkeyPatch, at: int, rate: float = 3.0, *, with_a_good: bool = False
) -> list[int]:
    """Let the server make its updates after the first `at` with a rate that forgets everything.

    Args:
        at: The last update before it.
        rate: The rate.
        with_a_good: Whether to wait until a checkpoint is good, however long a process takes to it.

    Returns:
        A list that gets the number of each such update.
    """
    usual, see = immediate.learning_rate_at, Divergence.see
    goods: list[int] = []
    exploded: list[int] = []

    def seen(self: Divergence, loss: float) -> None:
        see(self, loss)
        goods.extend([] if self.good is None else [self.good])

    def rate_at(update: int, *rest) -> float:
        if not exploded and (update <= at or (with_a_good and not goods)):
            return usual(update, *rest)
        exploded.append(update)
        return rate

    monkeypatch.setattr(Divergence, "see", seen)
    monkeypatch.setattr(immediate, "learning_rate_at", rate_at)
    return exploded


LEARNING = {"schedule__learning_rate": 1e-2, "schedule__warmup_updates": 5}


def trainable(run: RunDirectory) -> set[int]:
    return {int(p.parent.name) for p in run.checkpoints.glob("*/training.safetensors")}


@pytest.mark.parametrize("every", [1, 5, 7])
@pytest.mark.parametrize("devices", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.processes)])
def test_the_last_good_checkpoint_stays_and_training_goes_on_from_it(
    toy_run, monkeypatch, quick, devices, every
):
    options = {**LEARNING, "training__validate_every": every, "asynchronous__devices": devices}
    with monkeypatch.context() as patch:
        exploded = explode(patch, at=40, with_a_good=True)
        with pytest.raises(TrainingError, match=r"diverged.*above its best.*that of update \d+ is"):
            train_toy(toy_run, **options)
    latest = store.pointed(toy_run, "latest")
    assert latest and latest < exploded[0]
    if devices == "cpu":  # with several, it also depends on how long validations take
        assert exploded[0] == 41 and latest >= 40 - 2 * every - QUICK["TRUSTED_PUSHES"]
    assert max(store.list_checkpoints(toy_run)) == latest in trainable(toy_run)
    best = store.pointed(toy_run, "best")
    assert best and best <= latest and best in store.list_checkpoints(toy_run)
    vectors, state = final_state(toy_run)
    assert state["updates"] == latest
    assert all(vector.isfinite().all() for vector in vectors.values())
    summary = train_toy(toy_run, training__max_updates=latest + 3, **options)
    assert summary.updates == latest + 3
    assert trainable(toy_run) == set(store.list_checkpoints(toy_run)[-2:]), "others are not needed"


def test_without_a_good_checkpoint_none_is_left(toy_run):
    options = {"schedule__learning_rate": 1e30, "schedule__warmup_updates": 1}
    with pytest.raises(TrainingError, match=r"25 gradients in a row.*of the checkpoints, none was"):
        train_toy(toy_run, training__validate_every=1, **options)
    assert store.list_checkpoints(toy_run) == []
    assert store.pointed(toy_run, "latest") is store.pointed(toy_run, "best") is None


def test_the_checkpoint_that_a_run_is_resumed_from_is_never_lost(toy_run):
    train_toy(toy_run, training__max_updates=3)
    options = {"schedule__learning_rate": 1e30, "schedule__warmup_updates": 1}
    with pytest.raises(TrainingError, match="that of update 3 is kept"):
        train_toy(toy_run, training__max_updates=None, training__validate_every=1, **options)
    assert store.list_checkpoints(toy_run) == [3] and store.pointed(toy_run, "latest") == 3
    assert trainable(toy_run) == {3}


@pytest.mark.parametrize("devices", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.processes)])
def test_a_state_in_doubt_is_not_saved_at_the_end(toy_run, monkeypatch, quick, devices):
    explode(monkeypatch, at=40)
    options = {**LEARNING, "training__validate_every": 10, "asynchronous__devices": devices}
    summary = train_toy(toy_run, training__max_updates=50, **options)
    assert summary.updates == 50 and "max_updates" in summary.reason
    saved = [entry["checkpoint"] for entry in events(toy_run, "checkpoint")]
    assert saved or devices != "cpu", "a process that saves may not have come to it by then"
    most = 40 if devices == "cpu" else 49  # a late save may come between the leap and the doubt
    assert all(updates <= most for updates in saved), "not the last state, which is in doubt"
    assert store.pointed(toy_run, "latest") == (saved[-1] if saved else None)


def test_ignored_divergence_is_saved_like_all_else(toy_run, monkeypatch, quick):
    explode(monkeypatch, at=40)
    options = {**LEARNING, "training__validate_every": 10, "training__on_divergence": "ignore"}
    assert train_toy(toy_run, training__max_updates=80, **options).updates == 80
    assert store.pointed(toy_run, "latest") == 80
    assert trainable(toy_run) == {70, 80}
    assert final_state(toy_run)[1]["measured"]["divergence"]["num_above"] > 12


def test_non_finite_gradients_may_be_ignored_for_ever(toy_run):
    options = {"schedule__learning_rate": 1e30, "schedule__warmup_updates": 1}
    summary = train_toy(
        toy_run, training__max_epochs=4, training__on_divergence="ignore", **options
    )
    assert summary.updates == 1
    assert summary.non_finite_pushes == len(events(toy_run, "worker")) > MAX_UNUSABLE_PUSHES


def test_a_clean_run_is_never_in_doubt(toy_run, monkeypatch, quick):
    """As quick as the watch is here; its real constants are five to thirty times as patient."""
    doubts: list[bool] = []
    exchange = Session.exchange

    def noted(self: Session, *rest) -> object:
        reply = exchange(self, *rest)
        doubts.append(self.divergence.doubtful)
        return reply

    monkeypatch.setattr(Session, "exchange", noted)
    train_toy(toy_run, training__max_updates=120, **LEARNING)
    train_toy(toy_run, training__max_updates=200, schedule__learning_rate=2e-2)
    assert len(doubts) == 200 and not any(doubts)
    assert torch.isfinite(final_state(toy_run)[0]["parameters"]).all()
