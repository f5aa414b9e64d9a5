"""The log of a run of real workers, and its replay: the same parameters, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.checkpoints.load import read_state
from nmtasync.config.experiment import experiment_config
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.training.assembly import data_digest
from nmtasync.training.asynchronous.local import LocalDriver
from nmtasync.training.exchanges import LoggedExchanges
from nmtasync.training.session import Session
from nmtasync.training.simulation.recording import check_recording, read_exchange_log
from nmtasync.worker.precision import with_precision
from tests.support.replays import (
    ONE,
    TWO,
    assert_replayed,
    log_of,
    logged,
    replay,
    train_until_both_have_pushed,
)
from tests.support.runs import assert_same_state, copy_of, events, final_state, train_toy


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, _toy_run_template: Path) -> RunDirectory:
    """A run of two workers, as if it was killed after its first checkpoint, and resumed."""
    place = tmp_path_factory.mktemp("recorded") / "run"
    run = RunDirectory(shutil.copytree(_toy_run_template, place))
    train_until_both_have_pushed(run, 6)
    with log_of(run).open("ab") as log:  # what the killed process had done since, and half a line
        push = logged(run, "push")[-1]
        log.write(json.dumps({**push, "sequence": push["sequence"] + 1}).encode() + b'\n{"event')
    train_until_both_have_pushed(run, 14)
    return run


def test_a_run_of_two_workers_is_replayed_bit_for_bit_over_its_resume(recorded, toy_run):
    assert len(logged(recorded, "run")) == 2
    assert {push["worker"] for push in logged(recorded, "push")} == {0, 1}
    summary = replay(toy_run, log_of(recorded))
    assert_replayed(recorded, toy_run)
    assert summary.reason == f"reached the end of {log_of(recorded)}"
    assert summary.seconds == logged(recorded, "push")[-1]["seconds"]


def test_without_its_local_optimizers_the_replay_would_differ(recorded, toy_run):
    """Or the test above would not see how their state is treated."""
    replay(toy_run, log_of(recorded), asynchronous__local_optimizer_batches=0)
    assert final_state(recorded)[1]["progress"] == final_state(toy_run)[1]["progress"]
    parameters = [final_state(run)[0]["parameters"] for run in (recorded, toy_run)]
    assert not torch.equal(*parameters)


@pytest.mark.processes
def test_a_run_in_which_a_worker_was_killed_is_replayed_bit_for_bit(toy_run, monkeypatch):
    """Worker 1 is killed at a push of worker 0; the run ends at its replacement's second push."""
    other = copy_of(toy_run)
    exchange, fetch, replace = Session.exchange, LoggedExchanges.fetch, LocalDriver.replace
    pushes = [0, 0]  # from the start, or since the replacement has fetched
    happened: list[str] = []

    def noted(self: Session, computed, payload, landing, *rest):
        reply = exchange(self, computed, payload, landing, *rest)
        pushes[computed.push.worker] += 1
        if not happened and computed.push.worker == 0 and pushes[1] >= 2:
            (victim,) = (p for p in multiprocessing.active_children() if p.name == "worker 1")
            victim.kill()
            happened.append("killed")
        if "fetched" in happened and pushes[1] >= 2:
            self.stop_request = "the test has seen enough"
        return reply

    def replaced(self: LocalDriver, worker):
        replace(self, worker)
        happened.append("replaced")
        assert wait([worker.child.connection], 100), "it never starts"

    def fetched(self: Session, worker, landing, batches_before=None, slot=0):
        if batches_before:
            assert worker == 1
            happened.append("fetched")
            pushes[1] = 0
        return fetch(self, worker, landing, batches_before, slot)

    monkeypatch.setattr(Session, "exchange", noted)
    monkeypatch.setattr(LoggedExchanges, "fetch", fetched)
    monkeypatch.setattr(LocalDriver, "replace", replaced)
    train_toy(toy_run, training__validate_every=10**6, training__max_updates=4000, **TWO)
    monkeypatch.undo()
    assert happened == ["killed", "replaced", "fetched"]
    assert [entry["what"] for entry in events(toy_run, "worker")] == [
        "was killed by signal 9 (SIGKILL)"
    ]
    replay(other, log_of(toy_run))
    assert_replayed(toy_run, other)


def test_a_run_of_one_worker_is_replayed_over_its_resume(toy_run):
    """Its local optimizer goes on where that of one of several workers would begin anew."""
    other = copy_of(toy_run)
    for updates in (4, 9):
        train_toy(toy_run, training__max_updates=updates, **ONE)
    assert ["batches_before" in line for line in logged(toy_run, "fetch")] == [True, False]
    replay(other, log_of(toy_run))
    assert_replayed(toy_run, other)


@pytest.mark.processes
def test_a_worker_with_overlap_is_its_simulation_and_its_replay_bit_for_bit(toy_run):
    """In a process of its own: only its own pushes come in between, whatever the machine does."""
    simulated, replayed = copy_of(toy_run), RunDirectory(toy_run.root.with_name("replayed"))
    shutil.copytree(toy_run.root, replayed.root)
    overlap = {**ONE, "asynchronous__overlap": True, "training__log_every_seconds": 0.0}
    limit = {"training__max_updates": 9, "training__validate_every": 1000}
    train_toy(toy_run, **overlap, **limit)
    lines = events(toy_run, "train")
    assert [line["staleness_max"] for line in lines] == [0] + [1] * 8
    assert {push["slot"] for push in logged(toy_run, "push")} == {0, 1}
    train_toy(simulated, **overlap, **limit, asynchronous__driver="simulated")
    replay(replayed, log_of(toy_run), **overlap)
    for other in (simulated, replayed):
        assert_replayed(toy_run, other)


def test_a_log_of_another_format_is_refused(recorded, toy_run):
    # mini-batches, which a log names by number, may have been cut otherwise
    log = toy_run.root / "other.jsonl"
    log.write_text(log_of(recorded).read_text("utf-8").replace('"format":2', '"format":1'), "utf-8")
    with pytest.raises(UserError, match=r"other.jsonl:1: .*format 1; this version replays 2"):
        replay(toy_run, log)


def test_a_replay_stopped_and_resumed_is_never_interrupted_bit_for_bit(recorded, toy_run):
    pieces = copy_of(toy_run)
    replay(toy_run, log_of(recorded), training__max_updates=12)
    for updates in (3, 7, 12):
        replay(pieces, log_of(recorded), training__max_updates=updates)
    assert_same_state(toy_run, pieces)


def test_other_settings_are_replayed_on_the_same_schedule_and_named(recorded, toy_run):
    assert replay(toy_run, log_of(recorded), schedule__learning_rate=0.01).updates >= 14
    config = experiment_config(toy_run, {})
    log = read_exchange_log(log_of(recorded))
    state = read_state(
        toy_run, store.pointed(toy_run, "latest") or 0, VocabularyPair.load(toy_run.vocab).digest()
    )
    different = check_recording(log, config, data_digest(toy_run), state)
    assert different == ["schedule.learning_rate"]
    config = with_precision(experiment_config(toy_run, {}), "bf16")
    different = check_recording(log, config, data_digest(toy_run), state)
    assert different == ["schedule.learning_rate", "training.precision"]


def test_a_replay_ends_at_its_own_limits(recorded, toy_run):
    log = log_of(recorded)
    assert replay(toy_run, log, training__max_updates=5).updates == 5
    pushes = logged(recorded, "push")
    seconds = (pushes[2]["seconds"] + pushes[3]["seconds"]) / 2
    limits = {"training__max_updates": None, "training__max_minutes": seconds / 60}
    summary = replay(toy_run, log, resume=False, **limits)
    assert summary.updates == 3 and summary.seconds == 60 * (seconds / 60)


def test_replaying_its_own_log_leaves_it_as_it_is(toy_run):
    train_toy(toy_run, training__max_updates=3, **ONE)
    before, parameters = log_of(toy_run).read_bytes(), final_state(toy_run)[0]["parameters"]
    replay(toy_run, log_of(toy_run), resume=False)
    assert log_of(toy_run).read_bytes() == before
    assert torch.equal(final_state(toy_run)[0]["parameters"], parameters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training__seed": 7}, r"training\.seed: is 7, but was 1"),
        ({"data__batch_tokens": 90}, r"data\.batch_tokens: is 90, but was 120"),
        ({"asynchronous__optimizer_delay": 3}, r"optimizer_delay: is 3, but was 2"),
        ({"asynchronous__overlap": True}, r"overlap: is True, but was False"),
        ({"resume": True}, "another run.*--no-resume"),
    ],
)
def test_a_log_of_other_batches_is_refused(toy_run, change, words):
    train_toy(toy_run, training__max_updates=2, **ONE)
    before = toy_run.config.read_bytes()
    with pytest.raises(UserError, match=words):
        replay(toy_run, log_of(toy_run), **{"resume": False, **change})
    assert toy_run.config.read_bytes() == before


def damaged(lines: list[str], kind: str) -> list[str]:
    pushes = [index for index, line in enumerate(lines) if '"event":"push"' in line]
    match kind:
        case "gap":
            del lines[pushes[1]]
        case "word":
            lines[pushes[1]] = lines[pushes[1]].replace("push", "pull")
        case "twice":
            first, second = json.loads(lines[pushes[0]]), json.loads(lines[pushes[1]])
            second["batches"] = first["batches"]
            lines[pushes[1]] = json.dumps(second)
        case "nowhere":
            second = json.loads(lines[pushes[1]])
            second["batches"] = [[0, 5000]]
            lines[pushes[1]] = json.dumps(second)
        case "head":
            del lines[0]
        case "corpus":
            start = json.loads(lines[0])
            lines[0] = json.dumps({**start, "data": "other"})
        case "slot":
            lines[pushes[1]] = lines[pushes[1]].replace('"slot":0', '"slot":1')
        case "later":
            start = json.loads(lines[0])
            lines[0] = json.dumps({**start, "updates": 3})
        case "empty":
            del lines[1:]
        case "crowd":
            lines = [line.replace('"worker":0', '"worker":40') for line in lines]
        case "last alone":  # the two before it died before they had pushed anything
            lines = [line.replace('"worker":0', '"worker":2') for line in lines]
    return lines


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gap", r"copy\.jsonl:\d+: is push 3 of worker 0, but 2 would follow"),
        ("word", r"copy\.jsonl:\d+: is no line of an exchange log"),
        ("twice", r"copy\.jsonl:\d+: batch 0 of epoch 0 has been drawn before.*damaged"),
        ("nowhere", r"copy\.jsonl:\d+: epoch 0 has no batch 5000.*damaged"),
        ("head", "does not begin like an exchange log"),
        ("corpus", "another corpus or vocabulary"),
        ("slot", "names a slot that its workers do not have.*damaged"),
        ("later", "begins at update 3, and what came before was not logged"),
        ("empty", "holds no push"),
        ("crowd", "names worker 40, but has only 1 workers"),
        ("none", "can't be read"),
    ],
)
def test_a_damaged_log_is_refused_with_its_line(toy_run, tmp_path, kind, words):
    train_toy(toy_run, training__max_updates=4, **ONE)
    log = tmp_path / "copy.jsonl"
    if kind != "none":
        lines = damaged(log_of(toy_run).read_text("utf-8").splitlines(), kind)
        log.write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(UserError, match=words):
        replay(toy_run, log, resume=False)


def test_the_only_worker_that_lived_may_be_the_last_one(toy_run, tmp_path):
    train_toy(toy_run, training__max_updates=4, **ONE)
    log = tmp_path / "copy.jsonl"
    lines = damaged(log_of(toy_run).read_text("utf-8").splitlines(), "last alone")
    log.write_text("\n".join(lines) + "\n", "utf-8")
    assert read_exchange_log(log).num_workers == 3


def test_a_last_line_cut_off_by_a_kill_is_not_counted(toy_run):
    train_toy(toy_run, training__max_updates=4, **ONE)
    log = log_of(toy_run)
    log.write_bytes(log.read_bytes()[:-10])
    assert replay(toy_run, log_of(toy_run), resume=False).updates == 3


def test_a_log_that_lost_its_end_or_a_part_begins_anew_and_says_so(toy_run):
    """A power cut may leave less of the log than the checkpoint says; a simulation writes none."""
    train_toy(toy_run, training__max_updates=3, **ONE)
    log = log_of(toy_run)
    log.write_bytes(log.read_bytes()[:-10])
    train_toy(toy_run, training__max_updates=5, **ONE)
    assert [line["updates"] for line in logged(toy_run, "run")] == [3]
    with pytest.raises(UserError, match="begins at update 3"):
        replay(toy_run, log_of(toy_run), resume=False)
