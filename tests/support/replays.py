"""Runs of real workers whose log is replayed."""

from __future__ import annotations

import json
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch

from nmtasync.run_directory import RunDirectory
from nmtasync.training.asynchronous.local import LocalDriver
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.training.session import Session
from tests.support.runs import final_state, train_toy

ONE = {
    "asynchronous__devices": "cpu",
    "asynchronous__optimizer_delay": 2,
    "asynchronous__local_optimizer_batches": "always",
    "schedule__decay": "linear",
    "training__max_epochs": 60,
}
TWO = {**ONE, "asynchronous__devices": "cpu,cpu"}


def log_of(run: RunDirectory) -> Path:
    return run.logs / "exchanges.jsonl"


def logged(run: RunDirectory, event: str) -> list[dict]:
    lines = log_of(run).read_text("utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def replay(
    run: RunDirectory, log: Path, *, resume: bool = True, **changes: object
) -> TrainingSummary:
    options = {**ONE, "asynchronous__driver": "simulated", "simulation__replay": str(log)}
    options["training__max_epochs"] = 40  # the log tells how far training was, not the limits
    return train_toy(run, resume=resume, **{**options, **changes})


def train_until_both_have_pushed(run: RunDirectory, min_updates: int, **options: object) -> None:
    """Train with two workers until each of them has pushed twice, however slow the machine."""
    exchange, train = Session.exchange, LocalDriver.train
    pushes = [0, 0]

    def noted(self: Session, computed, payload, landing, *rest):
        reply = exchange(self, computed, payload, landing, *rest)
        pushes[computed.push.worker] += 1
        if min(pushes) >= 2 and self.server.updates >= min_updates:
            self.stop_request = "the test has seen enough"
        return reply

    def begun_together(self: LocalDriver):
        for worker in self.workers.values():
            assert wait([worker.child.connection], 100), "it never starts"
        return train(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "exchange", noted)
        patch.setattr(LocalDriver, "train", begun_together)
        train_toy(run, training__validate_every=10**6, **{**TWO, **options})


def assert_replayed(recorded: RunDirectory, replayed: RunDirectory) -> None:
    (vectors, state), (others, other_state) = final_state(recorded), final_state(replayed)
    for name in ("parameters", "first_moment", "second_moment", "average"):
        assert torch.equal(vectors[name], others[name]), name
    for key in ("progress", "versions", "last_sequences", "updates"):
        assert state[key] == other_state[key], key
