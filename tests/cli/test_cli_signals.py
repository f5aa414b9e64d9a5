"""Signals at any moment: one line, the exit code, a checkpoint where there is something to save,
and no process left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.processes import group_of, installed, wait_gone
from tests.support.repository import REPOSITORY
from tests.support.toy import TOY_FLAGS

pytestmark = pytest.mark.processes

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
AT_THE_START = """
import os, signal, sys
when, number, name = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
from cli.entry import main
seen = 0
def count(event, arguments):
    global seen
    if event == name:
        seen += 1
        if seen == when:
            os.killpg(0, number)
sys.addaudithook(count)
main()
"""
"""Sends a signal to the process group at the n-th event of a kind, whatever the machine's speed."""


def ended_by_itself(
    run: RunDirectory, number: int, event: str, when: int, *arguments: str
) -> tuple[int, str]:
    process = installed_with_hook(run, number, event, when, *arguments)
    _, errors = process.communicate(timeout=120)
    for pid in group_of(process):
        wait_gone(pid)
    return process.returncode, errors.decode()


def installed_with_hook(
    run: RunDirectory, number: int, event: str, when: int, *arguments: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", AT_THE_START, str(when), str(int(number)), event),
            *("train", str(run.root), *TOY_FLAGS, *arguments),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", list(CODES))
@pytest.mark.parametrize("imports", [1, 40, 700])
def test_in_the_middle_of_an_import(toy_run: RunDirectory, number, imports):
    before = sorted(toy_run.root.rglob("*"))
    code, errors = ended_by_itself(toy_run, number, "import", imports, "--max-updates=5")
    assert (code, errors) == (CODES[number], f"nmtasync: {WORDS[number]}\n")
    assert sorted(toy_run.root.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("started", [1, 2, 3])
def test_while_processes_start(toy_run: RunDirectory, number, started):
    """The resource tracker, the process that all are forked from, and what comes after them."""
    process = installed(
        *("train", toy_run.root, *TOY_FLAGS, "--devices=cpu,cpu", "--max-updates=100000"),
        cwd=toy_run.root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while len(group_of(process)) < started + 1:
            assert process.poll() is None
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=120)
        left = group_of(process)
        for pid in left:
            wait_gone(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == CODES[number], errors.decode()
    assert "Traceback" not in errors.decode() and WORDS[number] in errors.decode()


def test_under_nohup_a_hang_up_is_nothing(toy_run: RunDirectory):
    process = installed(
        *("train", toy_run.root, *TOY_FLAGS, "--max-updates=30", "--validate-every=10"),
        cwd=toy_run.root.parent,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.stderr.read()
    assert process.wait(60) == 0


def test_a_hang_up_saves(toy_run: RunDirectory):
    process = installed(
        *("train", toy_run.root, *TOY_FLAGS, "--max-updates=100000", "--validate-every=10"),
        cwd=toy_run.root.parent,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    while b"validation of update" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    assert b"hung up: saving" in process.stderr.read()
    assert process.wait(60) == 129
    assert int((toy_run.checkpoints / "latest").read_text()) >= 10
