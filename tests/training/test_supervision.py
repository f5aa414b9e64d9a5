"""Processes that hang, a full disk, and what is asked for by signals, while training goes on.

Through the real command line; where something must have happened first, a line is waited for.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from nmtasync.machine.supervision import (
    LEAST_SECONDS,
    LONGEST_PAUSE_SECONDS,
    UNKNOWN_SECONDS,
    Supervision,
    pause_before_restart,
)
from nmtasync.run_directory import RunDirectory
from tests.support.processes import children, start_training, wait_for_line
from tests.support.replays import log_of
from tests.support.runs import assert_same_vectors, copy_of, events, train_toy

ENDLESS = ("--devices=cpu,cpu", "--validate-every=1000000", "--set=training.log_every_seconds=0.2")
IMPATIENT = (*ENDLESS, "--set=asynchronous.worker_timeout=5")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def looked(supervision: Supervision[str], clock: Clock, seconds: float) -> list[str]:
    """Let time pass in steps of half a second, as the main process looks."""
    for _ in range(int(2 * seconds)):
        clock.now += 0.5
        overdue = supervision.overdue()
    return overdue


def test_who_is_silent_for_too_long():
    clock = Clock()
    supervision: Supervision[str] = Supervision(10.0, clock)
    supervision.expect("a")
    assert looked(supervision, clock, 6) == []
    supervision.expect("b")
    assert looked(supervision, clock, 5) == ["a"]
    supervision.done("a")
    assert looked(supervision, clock, 4) == []
    supervision.rest("b")
    assert looked(supervision, clock, 99) == []


def test_time_in_which_nobody_looked_does_not_count():
    """As of a machine that was asleep, or of a main process that was stopped with all others."""
    clock = Clock()
    supervision: Supervision[str] = Supervision(10.0, clock)
    supervision.expect("a")
    clock.now += 10_000.0
    assert supervision.overdue() == []
    assert looked(supervision, clock, 10) == ["a"]


def test_patience_follows_the_longest_task():
    clock = Clock()
    supervision: Supervision[str] = Supervision("auto", clock)
    assert supervision.limit == UNKNOWN_SECONDS
    for seconds, limit in ((1, LEAST_SECONDS), (50, 1000.0), (2, 1000.0)):
        supervision.expect("a")
        looked(supervision, clock, seconds)
        supervision.done("a")
        assert supervision.limit == limit


def test_pauses_grow_and_are_bounded():
    pauses = [pause_before_restart(deaths) for deaths in range(1, 100)]
    assert pauses[:4] == [0.0, 0.25, 0.5, 1.0]
    assert pauses == sorted(pauses) and pauses[-1] == LONGEST_PAUSE_SECONDS


def started(run: RunDirectory, *options: str) -> subprocess.Popen[str]:
    process = start_training(run, *options)
    wait_for_line(process, "update", "loss")
    return process


def ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("driver", ["local", "synchronous"])
def test_a_worker_that_was_stopped_is_replaced(toy_run: RunDirectory, driver):
    process = started(toy_run, *IMPATIENT, f"--set=asynchronous.driver={driver}")
    stopped = children(process.pid)[1]  # the validator is the first
    os.kill(stopped, signal.SIGSTOP)
    line = wait_for_line(process, "said nothing for 5 s")
    assert line.startswith("worker 0")
    wait_for_line(process, "update", "loss")
    ended(process)
    assert not Path(f"/proc/{stopped}").exists()
    stacks = (toy_run.logs / "worker-0.log").read_text()
    assert "most recent call first" in stacks, "where it hung"


@pytest.mark.processes
@pytest.mark.slow
def test_what_a_stopped_worker_had_drawn_is_drawn_again(toy_run: RunDirectory):
    """The final parameters are those of the replay."""
    other = copy_of(toy_run)
    process = started(toy_run, *IMPATIENT)
    os.kill(children(process.pid)[2], signal.SIGSTOP)
    wait_for_line(process, "worker 1 said nothing")
    ended(process)
    train_toy(
        other,
        asynchronous__driver="simulated",
        simulation__replay=str(log_of(toy_run)),
        training__validate_every=1_000_000,
    )
    assert_same_vectors(toy_run, other)


@pytest.mark.processes
@pytest.mark.slow
def test_a_validator_that_was_stopped_is_replaced_and_does_it_again(toy_run: RunDirectory):
    process = started(toy_run, *IMPATIENT, "--validate-every=400")
    os.kill(children(process.pid)[0], signal.SIGSTOP)
    wait_for_line(process, "validator said nothing for 5 s")
    wait_for_line(process, "validation of update")
    ended(process)
    assert events(toy_run, "valid")


@pytest.mark.processes
def test_a_validator_that_was_killed_is_replaced(toy_run: RunDirectory):
    process = started(toy_run, *ENDLESS, "--validate-every=400")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_for_line(process, "validator was killed by signal 9 (SIGKILL)")
    wait_for_line(process, "validation of update")
    ended(process)


@pytest.mark.processes
def test_a_checkpoint_on_request(toy_run: RunDirectory):
    process = started(toy_run, *ENDLESS)
    assert not toy_run.checkpoints.exists()
    process.send_signal(signal.SIGUSR1)
    while not events(toy_run, "checkpoint"):
        assert process.poll() is None
    assert int((toy_run.checkpoints / "latest").read_text()) > 0
    ended(process)


@pytest.mark.processes
@pytest.mark.parametrize("notice", ["signal", "file"])
def test_a_preemption_notice_ends_as_sigterm_does(toy_run: RunDirectory, tmp_path, notice):
    file = tmp_path / "notice"
    options = {
        "signal": "--set=training.preemption_signal=USR2",
        "file": f"--set=training.preemption_file={file}",
    }
    process = started(toy_run, *ENDLESS, options[notice])
    if notice == "signal":
        process.send_signal(signal.SIGUSR2)
    else:
        file.touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and "preempted: saving" in errors, errors
    assert int((toy_run.checkpoints / "latest").read_text()) > 0


@pytest.mark.processes
def test_saving_that_takes_longer_than_the_grace_is_given_up(toy_run: RunDirectory):
    """The device that never takes what is written stands in for a slow disk."""
    process = started(toy_run, *ENDLESS, "--grace=0.001")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in errors, errors
    left = [path.name for path in toy_run.checkpoints.glob("[0-9]*")]
    assert all((toy_run.checkpoints / name / "state.json").exists() for name in left)


@pytest.mark.processes
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_a_full_disk_keeps_the_run_alive(toy_run: RunDirectory, devices):
    """A limit on the size of files stands in for it; it is lifted again."""
    process = started(toy_run, *ENDLESS, f"--devices={devices}", "--validate-every=50")
    wait_for_line(process, "validation of update")
    wait_for_line(process, "update", "loss")
    everybody = [process.pid, *children(process.pid)]
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    for pid in everybody:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (2000, limits[1]))
    wait_for_line(process, "not saved", "is full")
    before = (toy_run.checkpoints / "latest").read_text()
    assert (toy_run.checkpoints / before.strip() / "training.safetensors").exists()
    for pid in everybody:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    wait_for_line(process, "validation of update")
    ended(process)
    assert int((toy_run.checkpoints / "latest").read_text()) > int(before)
    updates = [entry["updates"] for entry in events(toy_run, "train")]
    assert updates == sorted(updates), "no line of the log is lost or cut"
    assert events(toy_run, "failed-save")
