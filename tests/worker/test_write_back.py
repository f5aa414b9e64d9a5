"""The authors' write-back of local steps over a shard: what it does, erases, and can't go with."""

from __future__ import annotations

import pytest
import torch

from nmtasync.config.load import resolve
from nmtasync.errors import UserError
from nmtasync.server.messages import Push
from nmtasync.server.server import Server
from tests.support.one_worker import OneWorker
from tests.support.replays import (
    ONE,
    TWO,
    assert_replayed,
    log_of,
    replay,
    train_until_both_have_pushed,
)
from tests.support.runs import copy_of, final_state, train_toy
from tests.support.toy import toy_config

SIZE = 64 * 4
ON = {"asynchronous__local_write_back": True}


@pytest.mark.parametrize("devices", [None, ["cpu"]], ids=["slices", "own memory"])
def test_it_erases_what_another_worker_has_pushed_to_the_shard_and_nothing_else(devices):
    server = Server(torch.ones(SIZE), 2, resolve({}), 2, devices)
    replica, landing = torch.zeros(SIZE), torch.zeros(SIZE)
    server.fetch(replica, 0)
    server.exchange(Push(1, 1, (0, 0), 5, 1.0), torch.ones(SIZE), landing)
    pushed = {name: vector.clone() for name, vector in server.vectors.items()}
    assert not (pushed["parameters"] == replica).any()
    server.write_back(0, replica)
    mine, others = server.shards[0].bounds, server.shards[1].bounds
    assert torch.equal(server.parameters[mine], replica[mine]), "the push is gone"
    assert torch.equal(server.parameters[others], pushed["parameters"][others])
    for name in pushed.keys() - {"parameters"}:
        assert torch.equal(server.vectors[name], pushed[name]), name
    assert server.versions == (1, 1)


def test_it_follows_each_local_step(toy_run):
    config = toy_config(
        asynchronous__optimizer_delay=3, asynchronous__local_optimizer_batches=2, **ON
    )
    one = OneWorker(toy_run, config)
    seen = [one.server.parameters.clone()]

    class Noted:
        def write_back(self, number: int, progress: float) -> None:
            assert number == len(seen) - 1
            assert torch.equal(one.server.parameters, seen[-1]), "nothing but this changes a shard"
            one.server.write_back(0, one.flat.parameters)
            assert torch.equal(one.server.parameters, one.flat.parameters)
            seen.append(one.server.parameters.clone())

    one.worker.access = Noted()
    one.worker.compute([next(one.batches) for _ in range(3)])
    assert len(seen) == 3, "two batches of three have a local step"
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@pytest.mark.processes
def test_worker_processes_write_back_and_their_log_is_replayed(toy_run, monkeypatch):
    write_back, erased = Server.write_back, []

    def noted(self: Server, worker: int, replica: torch.Tensor) -> None:
        before = self.parameters.clone()
        write_back(self, worker, replica)
        moved = self.parameters != before
        own = self.shards[worker].bounds
        assert moved[own].any() and torch.equal(self.parameters[own], replica[own])
        moved[own] = False
        assert not moved.any()
        erased.append(worker)

    monkeypatch.setattr(Server, "write_back", noted)
    recorded = copy_of(toy_run)
    train_until_both_have_pushed(recorded, 4, **ON)
    batches = final_state(recorded)[1]["progress"]["batches"]
    assert set(erased) == {0, 1} and len(erased) >= batches
    replay(toy_run, log_of(recorded), **ON)
    assert_replayed(recorded, toy_run)
    with pytest.raises(UserError, match=r"local_write_back: is False, but was True"):
        replay(toy_run, log_of(recorded), resume=False, asynchronous__local_write_back=False)


def test_one_worker_in_this_process_writes_back_too(toy_run):
    other = copy_of(toy_run)
    for run, on in ((toy_run, True), (other, False)):
        train_toy(run, training__max_updates=2, **ONE, asynchronous__local_write_back=on)
    (left, _), (right, _) = final_state(toy_run), final_state(other)
    assert not torch.equal(left["parameters"], right["parameters"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"local_optimizer_batches": 0},
            "local_write_back: has no effect.*local_optimizer_batches",
        ),
        ({"num_shards": 2}, "local_write_back.*asynchronous.num_shards is 2"),
        ({"local_push": "delta"}, "local_write_back.*local_push is 'delta'"),
        ({"driver": "synchronous"}, "has no effect.*synchronous"),
    ],
)
def test_what_it_cannot_go_with_is_refused(change, words):
    options = {key.replace("__", "."): value for key, value in {**TWO, **ON}.items()}
    resolve(options)
    with pytest.raises(UserError, match=words):
        resolve(options, {f"asynchronous.{key}": value for key, value in change.items()})
