"""Training that has diverged and goes back: with which rate and batches; resumed; replayed."""

from __future__ import annotations

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.errors import TrainingError, UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.server.rules import immediate
from nmtasync.training import divergence
from nmtasync.training.assembly import Assembly
from nmtasync.training.divergence import Divergence
from nmtasync.training.session import Session
from tests.support.command_line import CommandLine
from tests.support.replays import ONE, TWO, assert_replayed, log_of, logged, replay
from tests.support.runs import copy_of, events, final_state, train_toy
from tests.support.toy import TOY_FLAGS

OPTIONS = {
    "training__on_divergence": "rollback",
    "training__validate_every": 5,
    "training__log_every_seconds": 0.0,
    "schedule__learning_rate": 1e-2,
    "schedule__warmup_updates": 5,
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checkpoints be good soon, and the loss be judged soon."""
    quick = {"RECENT_PUSHES": 4, "USUAL_PUSHES": 10, "PATIENCE_PUSHES": 12, "TRUSTED_PUSHES": 6}
    for name, pushes in {**quick, "MARGIN": 0.5}.items():
        monkeypatch.setattr(divergence, name, pushes)


def explode(monkeypatch: pytest.MonkeyPatch, at: int, below: float) -> None:
    """Let the model forget everything after `at` updates unless the rate is below some value."""
    usual = immediate.learning_rate_at

    def rate_at(update: int, words: int, config, *rest) -> float:
        return (
            3.0
            if update > at and config.learning_rate >= below
            else usual(update, words, config, *rest)
        )

    monkeypatch.setattr(immediate, "learning_rate_at", rate_at)


def condemn(monkeypatch: pytest.MonkeyPatch, *updates: int, interrupted: bool = False) -> None:
    """Say that training has diverged when it first comes to each of these updates."""
    waiting = list(updates)
    count = Session.count

    def counted(self: Session, *arguments) -> None:
        count(self, *arguments)
        if waiting and self.server.updates >= waiting[0]:
            waiting.pop(0)
            if interrupted:
                self.request_stop("interrupted")
            monkeypatch.setattr(Divergence, "verdict", "training diverged: the test says so")
            try:
                self.divergence.judge(self.run.root, self.reporter.display.message)
            finally:
                monkeypatch.setattr(Divergence, "verdict", None)

    monkeypatch.setattr(Divergence, "verdict", None)
    monkeypatch.setattr(Session, "count", counted)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, int]]]:
    """All batches that are drawn: at which update, and which."""
    places: list[tuple[int, tuple[int, int]]] = []
    next_window = Session.next_window

    def noted(self: Session, *rest):
        window = next_window(self, *rest)
        places.extend((self.server.updates, (b.epoch, b.index)) for b in window)
        return window

    monkeypatch.setattr(Session, "next_window", noted)
    return places


def test_the_rate_is_halved_and_the_batches_are_later_ones(toy_run, monkeypatch, quick, drawn):
    explode(monkeypatch, at=40, below=0.75e-2)
    summary = train_toy(toy_run, training__max_updates=90, **OPTIONS)
    assert (summary.updates, summary.rollbacks) == (90, 1)
    (back,) = events(toy_run, "rollback")
    good = back["checkpoint"]
    assert 25 <= good <= 40 < back["updates"] and "above its best" in back["reason"]
    batches = [place for _, place in drawn]
    assert len(batches) == len(set(batches)), "none is met again"
    lines = events(toy_run, "train")
    second = [line["updates"] for line in lines].index(good + 1, good + 5)
    for line in lines[second:]:
        usual = 1e-2 * (5 / line["updates"]) ** 0.5
        assert line["learning_rate"] == pytest.approx(usual / 2)
    _, state = final_state(toy_run)
    assert state["rollbacks"] == 1 and state["progress"]["pushes"] == 90
    assert lines[-1]["loss"] < lines[good - 1]["loss"]
    seconds = [line["time_seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert [v["updates"] for v in events(toy_run, "valid")][-1] == 90


def test_after_three_rollbacks_training_stops_at_the_last_good_checkpoint(
    toy_run, monkeypatch, quick
):
    explode(monkeypatch, at=40, below=0.0)
    with pytest.raises(TrainingError, match=r"above its best.*that of update \d+ is kept"):
        train_toy(toy_run, training__max_updates=900, **OPTIONS)
    assert [entry["rollbacks"] for entry in events(toy_run, "rollback")] == [1, 2, 3]
    latest = store.pointed(toy_run, "latest")
    assert latest and latest <= 40 and max(store.list_checkpoints(toy_run)) == latest
    assert final_state(toy_run)[1]["rollbacks"] == 3


def test_without_a_good_checkpoint_training_stops(toy_run):
    options = {**OPTIONS, "schedule__learning_rate": 1e30, "schedule__warmup_updates": 1}
    with pytest.raises(TrainingError, match=r"of the checkpoints, none was good"):
        train_toy(toy_run, **options)
    assert not events(toy_run, "rollback")


def test_who_asks_training_to_end_is_obeyed(toy_run, monkeypatch, quick):
    condemn(monkeypatch, 42, interrupted=True)
    with pytest.raises(TrainingError, match=r"the test says so.*that of update \d+ is kept"):
        train_toy(toy_run, training__max_updates=60, **OPTIONS)
    assert not events(toy_run, "rollback")


DRIVERS = {
    "inline": {"asynchronous__devices": "cpu"},
    "local": {"asynchronous__devices": "cpu,cpu"},
    "overlap": {"asynchronous__devices": "cpu,cpu", "asynchronous__overlap": True},
    "synchronous": {"asynchronous__devices": "cpu,cpu", "asynchronous__driver": "synchronous"},
    "simulated": {"asynchronous__driver": "simulated", "simulation__speeds": "1,0.7,0.3"},
    "simulated synchronous": {
        "asynchronous__driver": "simulated",
        "simulation__speeds": "1,0.7",
        "simulation__synchronous": True,
    },
    "own shard": {
        "asynchronous__driver": "simulated",
        "simulation__speeds": "1,0.7",
        "asynchronous__own_shard": "batch",
        "asynchronous__optimizer_delay": 2,
    },
}
PROCESSES = {"local", "overlap", "synchronous"}


@pytest.mark.parametrize(
    "driver",
    [pytest.param(d, marks=pytest.mark.processes) if d in PROCESSES else d for d in DRIVERS],
)
def test_every_driver_goes_back(toy_run, monkeypatch, quick, driver):
    condemn(monkeypatch, 42, 58)
    summary = train_toy(toy_run, training__max_updates=70, **OPTIONS, **DRIVERS[driver])
    assert (summary.updates, summary.rollbacks) == (70, 2)
    first, second = events(toy_run, "rollback")
    assert 0 < first["checkpoint"] < 42 and first["checkpoint"] <= second["checkpoint"] < 58
    vectors, state = final_state(toy_run)
    assert state["rollbacks"] == 2 and state["updates"] == 70
    assert all(vector.isfinite().all() for vector in vectors.values())
    times = [line["time_seconds"] for line in events(toy_run, "train")]
    assert times == sorted(times), "the clock goes on"


@pytest.mark.parametrize("driver", ["inline", "simulated", "simulated synchronous"])
def test_killed_after_going_back_and_resumed_is_going_on_bit_for_bit(
    toy_run, monkeypatch, quick, driver
):
    other = copy_of(toy_run)
    options = {**OPTIONS, **DRIVERS[driver], "training__max_updates": 60}
    with monkeypatch.context() as patch:
        condemn(patch, 42)
        train_toy(toy_run, **options)
    with monkeypatch.context() as patch:
        condemn(patch, 42)
        train, starts = Assembly.train, []

        def killed(self: Assembly, *rest):
            starts.append(self.start.rollbacks)
            if len(starts) == 2:
                raise KeyboardInterrupt
            return train(self, *rest)

        patch.setattr(Assembly, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            train_toy(other, **options)
        assert starts == [0, 1]
    train_toy(other, **options)
    (vectors, state), (others, other_state) = final_state(toy_run), final_state(other)
    assert vectors.keys() == others.keys()
    assert all(torch.equal(vector, others[name]) for name, vector in vectors.items())
    for key in ("cursor", "progress", "versions", "rollbacks", "workers", "virtual_seconds"):
        assert state[key] == other_state[key], key


LOCAL_RATE = {"asynchronous__local_learning_rate": 2e-3}


def test_a_run_that_went_back_is_replayed(toy_run, monkeypatch):
    replayed = copy_of(toy_run)
    options = {**ONE, **LOCAL_RATE, "training__max_epochs": 16}
    with monkeypatch.context() as patch:
        patch.setattr(divergence, "TRUSTED_PUSHES", 6)
        condemn(patch, 42, 58)
        goes_back = {"training__on_divergence": "rollback", "training__validate_every": 5}
        summary = train_toy(toy_run, **options, **goes_back)
        assert summary.rollbacks == 2
    runs = logged(toy_run, "run")
    assert [run.get("rollbacks", 0) for run in runs] == [0, 1, 2]
    assert len({run["settings"]["schedule.learning_rate"] for run in runs}) == 1
    # stopped and gone on with on the way, behind the first rollback
    settings = {**LOCAL_RATE, "training__max_epochs": 40}
    replay(replayed, log_of(toy_run), training__max_updates=runs[1]["updates"] + 3, **settings)
    assert final_state(replayed)[1]["rollbacks"] == 1
    replay(replayed, log_of(toy_run), training__max_updates=None, **settings)
    assert_replayed(toy_run, replayed)
    assert final_state(replayed)[1]["rollbacks"] == 2


@pytest.mark.processes
def test_a_run_of_two_processes_that_went_back_is_replayed(toy_run, monkeypatch):
    replayed = copy_of(toy_run)
    options = {**TWO, "training__max_epochs": 12}
    with monkeypatch.context() as patch:
        patch.setattr(divergence, "TRUSTED_PUSHES", 6)
        condemn(patch, 42)
        goes_back = {"training__on_divergence": "rollback", "training__validate_every": 5}
        assert train_toy(toy_run, **options, **goes_back).rollbacks == 1
    replay(replayed, log_of(toy_run))
    assert_replayed(toy_run, replayed)


def test_a_replay_cannot_go_back_by_itself(toy_run):
    train_toy(toy_run, training__max_updates=2)
    with pytest.raises(UserError, match=r"on_divergence: is 'rollback', but a replay repeats"):
        replay(RunDirectory(toy_run.root), log_of(toy_run), training__on_divergence="rollback")


def test_the_command_line_tells_of_it(toy_run, monkeypatch, quick, nmtasync: CommandLine):
    condemn(monkeypatch, 42)
    flags = ["--on-divergence=rollback", "--validate-every=5", "--max-updates=60"]
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "going back" in line]
    good = events(toy_run, "rollback")[0]["checkpoint"]
    assert f"going back to update {good} with half the learning rate (rollback 1 of 3)" in line
    assert "went back:    1 time(s), each to half the learning rate" in result.stdout
