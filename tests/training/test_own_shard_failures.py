"""Own shards and write-back when something goes wrong: deaths, overflows, other settings."""

from __future__ import annotations

import io
import multiprocessing

import pytest
import torch
from rich.console import Console

from nmtasync.config.load import resolve, to_settings
from nmtasync.config.schema import TrainingConfig
from nmtasync.errors import TrainingError, UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.server.messages import Push, Reply
from nmtasync.server.noise_scale import NoiseScale
from nmtasync.server.server import Server
from nmtasync.training import assembly, divergence
from nmtasync.training.assembly import Assembly
from nmtasync.training.asynchronous.in_process import InProcessDriver
from nmtasync.training.reporting.display import Display
from nmtasync.training.reporting.exchange_log import ExchangeLog, LoggedRun
from nmtasync.training.reporting.reporter import Reporter
from nmtasync.training.session import Session
from nmtasync.training.simulation.asynchronous import SimulatedDriver
from nmtasync.worker import loss_scale
from nmtasync.worker.gradient import WindowGradient
from nmtasync.worker.window import WindowFigures
from tests.support.replays import TWO, assert_replayed, log_of, logged, replay
from tests.support.runs import (
    copy_of,
    events,
    final_state,
    simulate,
    train_toy,
    words_of_an_epoch,
)

OWN = {"asynchronous__own_shard": "batch", "asynchronous__optimizer_delay": 3}
WRITE_BACK = {
    "asynchronous__local_write_back": True,
    "asynchronous__local_optimizer_batches": "always",
    "asynchronous__optimizer_delay": 3,
}


def simulate_logged(run: RunDirectory, **options: object) -> None:
    """Simulate with the log that real workers leave, but at known times."""

    def logging(self: Assembly) -> ExchangeLog:
        start = LoggedRun(0, self.parts.threads, self.data_digest, to_settings(self.config))
        return ExchangeLog(self.run, start, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "_exchange_log", logging)
        simulate(run, simulation__speeds="1,1", **options)


USUAL = {"schedule__decay": "inverse-sqrt", "asynchronous__local_optimizer_batches": 0}


@pytest.mark.parametrize("back", ["4.75", "9.5"], ids=["itself", "another"])
@pytest.mark.parametrize("options", [OWN, WRITE_BACK], ids=["own shard", "write-back"])
def test_what_a_dead_worker_did_in_the_middle_of_its_window_is_replayed(toy_run, options, back):
    """Worker 1 dies after a batch of its window, which its replacement or worker 0 draws next."""
    other, failures = copy_of(toy_run), f"1@4.5-{back}"
    options = {**options, "training__max_updates": 30}
    simulate_logged(toy_run, simulation__failures=failures, **options)
    batches = logged(toy_run, "batch")
    (cut,) = [b for b in batches if b["worker"] == 1 and 3 < b["seconds"] < 4.5]
    again = [b for b in batches if b["batches"] == cut["batches"] and b["seconds"] > 4.5]
    assert {b["worker"] for b in again} == ({1} if back == "4.75" else {0})
    assert back == "4.75" or max(b["seconds"] for b in again) < 9.5, "or it is back before"
    replay(other, log_of(toy_run), **{**USUAL, **options})
    assert_replayed(toy_run, other)


@pytest.mark.parametrize("options", [OWN, WRITE_BACK], ids=["own shard", "write-back"])
def test_a_log_of_other_numbers_of_workers_is_refused(toy_run, options):
    """Their own shards were others."""
    other = copy_of(toy_run)
    simulate_logged(toy_run, training__max_updates=8, **options)
    lines = log_of(toy_run).read_text("utf-8").splitlines(keepends=True)
    alone = [line for line in lines if '"worker":1' not in line]
    log_of(toy_run).write_text("".join(alone), "utf-8")
    with pytest.raises(UserError, match="2 shards, but its exchanges are of 1 worker"):
        replay(other, log_of(toy_run), **{**USUAL, **options})


def test_a_log_that_changes_a_window_is_refused(toy_run):
    other = copy_of(toy_run)
    simulate_logged(toy_run, training__max_updates=8, **OWN)
    lines = log_of(toy_run).read_text("utf-8").splitlines(keepends=True)
    (place, line), *_ = ((i, each) for i, each in enumerate(lines) if '"number":1' in each)
    lines[place] = line.replace("[0,1]", "[0,7]")
    assert lines[place] != line
    log_of(toy_run).write_text("".join(lines), "utf-8")
    with pytest.raises(UserError, match="names other batches than worker 0 has begun"):
        replay(other, log_of(toy_run), **{**USUAL, **OWN})


def test_a_dead_worker_has_no_open_window(toy_run):
    simulate(
        toy_run,
        simulation__speeds="1,1",
        simulation__failures="1@4.5",
        training__max_minutes=5.5 / 60,
        **OWN,
    )
    assert list(final_state(toy_run)[1]["simulation"]["open"]) == ["0"]


def test_a_worker_without_shards_of_its_own_pushes_windows_only(toy_run, monkeypatch):
    exchange_own, owners = Session.exchange_own, set()

    def noted(self: Session, push, *rest):
        owners.add(push.worker)
        return exchange_own(self, push, *rest)

    monkeypatch.setattr(Session, "exchange_own", noted)
    simulate(
        toy_run,
        simulation__speeds="1,1,1",
        asynchronous__num_shards=2,
        training__max_updates=9,
        **OWN,
    )
    assert owners == {0, 1}


def test_a_push_for_some_shards_counts_for_as_much_of_the_usual_staleness():
    server = Server(torch.zeros(256), 4, resolve({}), 2)
    payload, landing = torch.ones(256), torch.zeros(256)
    server.exchange(Push(0, 1, (0,) * 4, 5, 1.0), payload, landing)
    server.exchange(Push(1, 1, (0,) * 4, 5, 1.0, shards=(2,)), payload, landing)
    lateness = server.measured.to_json()["lateness"]
    assert lateness["value"] == pytest.approx(0.25 / 1.25), "1 for a quarter, 0 for the whole"


def test_a_worker_that_had_ended_fetches_what_was_written_back_meanwhile(toy_run, monkeypatch):
    """Worker 1 dies after the first batch of its window, when there are no others any more."""
    begin, begun = SimulatedDriver.begin_window, []

    def fresh(self: SimulatedDriver, index, progress, slot=0):
        begun.append((self.clock(), index))
        fetched = self.fetched[index][slot].parameters
        assert torch.equal(fetched, self.session.server.parameters), begun[-1]
        begin(self, index, progress, slot)

    monkeypatch.setattr(SimulatedDriver, "begin_window", fresh)
    simulate(
        toy_run,
        simulation__speeds="1,0.01",
        simulation__failures="1@250",
        training__max_epochs=1,
        **WRITE_BACK,
    )
    assert begun[-1] == (250.0, 0)


@pytest.mark.parametrize("devices", [1, 2])
def test_training_that_diverges_ends_though_no_window_has_a_push_left(toy_run, devices):
    options = {"schedule__learning_rate": 1e30, "schedule__warmup_updates": 1, **OWN}
    with pytest.raises(TrainingError, match=r"diverged.*learning_rate"):
        if devices == 1:
            train_toy(toy_run, training__max_epochs=20, **options)
        else:
            simulate(toy_run, simulation__speeds="1,1", training__max_epochs=20, **options)


def test_overflows_make_the_scale_smaller_though_no_window_has_a_push_left(toy_run, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_EXPONENT", 24)
    monkeypatch.setattr(divergence, "MAX_UNUSABLE_PUSHES", 2)
    train_toy(toy_run, training__precision="fp16", training__max_updates=6, **OWN)
    skipped = [entry for entry in events(toy_run, "worker") if "float16" in entry["what"]]
    vectors, state = final_state(toy_run)
    assert len(skipped) > 2
    assert state["workers"]["0"]["scale_exponent"] == 24 - len(skipped)
    assert 6 <= state["updates"] <= 8  # the window of three in which six are reached is ended
    assert all(vector.isfinite().all() for vector in vectors.values())


def test_a_window_with_a_batch_that_is_not_finite_is_refused_after_a_resume_too(
    toy_run, monkeypatch
):
    """Worker 0's first batch overflows in its own shard alone; training is stopped after it."""
    add, stop_reason = WindowGradient.add_assigned, Session.stop_reason
    stopping = []

    def overflowing(self: WindowGradient, assigned, batch=None):
        figures = add(self, assigned, batch)
        if assigned.index == 0 and assigned.epoch == 0:
            self.flat.gradients[0] = torch.inf  # of shard 0, which is worker 0's
            stopping.append(None)
        return figures

    def soon(self: Session):
        return "soon" if stopping and stopping.pop() is None else stop_reason(self)

    monkeypatch.setattr(WindowGradient, "add_assigned", overflowing)
    monkeypatch.setattr(Session, "stop_reason", soon)
    for _ in range(2):
        simulate(toy_run, simulation__speeds="1,1", training__max_updates=8, **OWN)
    dropped = [entry for entry in events(toy_run, "worker") if "non-finite" in entry["what"]]
    assert [entry["worker"] for entry in dropped] == [0]
    vectors, _ = final_state(toy_run)
    assert all(vector.isfinite().all() for vector in vectors.values())


@pytest.mark.parametrize("num_shards", [2, 3])
def test_windows_that_were_cut_with_other_shards_are_drawn_again(toy_run, monkeypatch, num_shards):
    """What was gathered belongs to shards that are no more."""
    options = {"simulation__speeds": "1,1", **OWN}
    simulate(toy_run, training__max_updates=5, asynchronous__num_shards=2, **options)
    assert final_state(toy_run)[1]["simulation"]["open"]
    restore, gone_on = InProcessDriver.restore_open_windows, []

    def noted(self: InProcessDriver, vectors, saved):
        gone_on.extend(saved)
        restore(self, vectors, saved)

    monkeypatch.setattr(InProcessDriver, "restore_open_windows", noted)
    limits = {"training__max_updates": None, "training__max_epochs": 2}
    simulate(toy_run, asynchronous__num_shards=num_shards, **limits, **options)
    assert gone_on == (["0", "1"] if num_shards == 2 else [])
    state = final_state(toy_run)[1]
    assert state["progress"]["target_words"] == 2 * words_of_an_epoch(toy_run)


def test_an_interval_may_have_a_push_for_no_shard_alone(tmp_path):
    """As one worker's, which owns the only shard, when another's push has just filled a line."""
    run, noise = RunDirectory(tmp_path), NoiseScale([], room_is_kept=False, clip_norm=None)
    options = TrainingConfig(log_every_seconds=0.0)
    reporter = Reporter(run, Display(Console(file=io.StringIO())), options, 0, noise)
    window = WindowFigures(0, 3, 50, 40, 150.0, 0.0, 0.1)
    clocks = {"time_seconds": 1.0, "batches": 3, "updates": 3, "epoch": 0.1}
    reporter.pushed(window, Reply((3,), True, (), shards=()), 0.0, clocks)
    reporter.close()
    (line,) = events(run, "train")
    assert line["staleness_histogram"] == {} and line["loss"] == 3.0


@pytest.mark.processes
def test_a_worker_killed_in_the_middle_of_its_window_leaves_what_it_did(toy_run, monkeypatch):
    """Worker 1 is killed when its shard takes the first batch of its third window."""
    other = copy_of(toy_run)
    exchange, exchange_own = Session.exchange, Session.exchange_own
    pushes: list[int] = []
    killed: list[int] = []

    def own(self: Session, push, payload, landing, number):
        reply = exchange_own(self, push, payload, landing, number)
        if not killed and push.worker == 1 and pushes.count(1) == 2:
            (victim,) = (p for p in multiprocessing.active_children() if p.name == "worker 1")
            victim.kill()
            victim.join()
            killed.append(push.sequence)
            pushes.clear()
        return reply

    def whole(self: Session, computed, *rest):
        reply = exchange(self, computed, *rest)
        pushes.append(computed.push.worker)
        if killed and {0, 1} <= set(pushes):
            self.stop_request = "the test has seen enough"
        return reply

    monkeypatch.setattr(Session, "exchange_own", own)
    monkeypatch.setattr(Session, "exchange", whole)
    options = {**TWO, **OWN, "training__max_epochs": 2000}
    train_toy(toy_run, training__validate_every=10**6, **options)
    monkeypatch.undo()
    assert killed == [9], "three batches and their window, twice, and this batch"
    assert [entry["what"] for entry in events(toy_run, "worker")] == [
        "was killed by signal 9 (SIGKILL)"
    ]
    assert 10 in [b.get("sequence") for b in logged(toy_run, "batch") if b["worker"] == 1]
    replay(other, log_of(toy_run), **OWN)
    assert_replayed(toy_run, other)
