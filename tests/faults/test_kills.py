"""Killed again and again with all its processes, a run ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.repository import REPOSITORY
from tests.support.runs import assert_same_state, copy_of, train_toy
from tests.support.toy import TOY_FLAGS

DRIVERS: dict[str, dict[str, object]] = {
    "one worker": {},
    "simulated": {
        "asynchronous.driver": "simulated",
        "simulation.speeds": "1,0.7,0.4",
        "asynchronous.optimizer_delay": 2,
        "asynchronous.own_shard": "batch",
    },
}
OPTIONS = {
    "training.validate_every": 7,
    "training.max_updates": 400,
    "training.patience": "none",
    "training.log_every_seconds": 0.01,
    "data.batch_tokens": 60,
}
KILLS = 20


@pytest.mark.system
@pytest.mark.parametrize("driver", DRIVERS)
def test_twenty_kills_of_the_process_group_change_nothing(toy_run: RunDirectory, driver):
    """At moments that the machine's pace decides: after so many lines as a seed says."""
    other, options = copy_of(toy_run), {**OPTIONS, **DRIVERS[driver]}
    rng, kills = random.Random(11), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "train", str(toy_run.root), *TOY_FLAGS]
            + [f"--set={name}={value}" for name, value in options.items()],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        if kills < KILLS:
            for _ in range(rng.randint(3, 24)):
                process.stderr.readline()
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.stderr.read()
        if process.wait() == 0:
            break
    assert kills == KILLS, "it had come to its end before"
    python = {
        name.replace(".", "__"): None if value == "none" else value
        for name, value in options.items()
    }
    train_toy(other, **python)
    assert_same_state(toy_run, other)
