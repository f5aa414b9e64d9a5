"""Devices of a host in processes of their own, and one device that computes for all."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from nmtasync.data.cursor import AssignedBatch
from nmtasync.errors import NmtasyncError
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import Worker
from tests.support.hosts import host_of
from tests.support.one_worker import OneWorker
from tests.support.toy import toy_config

LOCAL = {
    "asynchronous__local_optimizer_batches": "always",
    "asynchronous__local_push": "delta",
}


@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [
        {},
        LOCAL,
        {"training__precision": "bf16"},
        {"training__precision": "fp16"},
        {"asynchronous__drop_rate": 0.5, "asynchronous__drop_local_gradient": True},
    ],
    ids=["float32", "deltas", "bf16", "fp16", "what was dropped"],
)
def test_three_devices_compute_what_one_does_for_all_bit_for_bit(toy_run, options):
    """In two windows, the last of which ends with a batch for the first device alone."""
    config = toy_config(**options)
    alone = OneWorker(toy_run, config)
    place, corpus = WorkerPlace(0, num_devices=3), alone.worker.gradient.corpus
    one = Worker(place, alone.flat, corpus, config)
    one.versions = (0,)
    batches = [next(alone.batches) for _ in range(11)]
    with host_of(toy_run, config, num_devices=3) as host:
        assert torch.equal(host.flat.parameters, one.flat.parameters)
        for window in (batches[:6], batches[6:10]):
            ours, expected = host.compute(window), one.compute(window)
            assert expected.push.target_words > 0 and expected.push == ours.push
            expected.figures.compute_seconds = ours.figures.compute_seconds
            assert ours.figures == expected.figures
            assert torch.equal(host.flat.gradients, one.flat.gradients)
            assert torch.equal(host.flat.parameters, one.flat.parameters)


@pytest.mark.processes
def test_batches_that_are_computed_in_parts_are_counted_and_later_ones_come_out_right(
    toy_run, monkeypatch
):
    """The worker's own device has too little memory for its second batch, once."""
    config = toy_config(model__dropout=0.0)
    alone, failed = OneWorker(toy_run, config), []
    one = Worker(WorkerPlace(0, num_devices=2), alone.flat, alone.worker.gradient.corpus, config)
    one.versions = (0,)
    window = [next(alone.batches) for _ in range(4)]
    one.compute(window)
    with host_of(toy_run, config, num_devices=2) as host:
        add = host.gradient.add

        def add_but_once(batch, seed):
            figures = add(batch, seed)
            if len(failed) < 2:
                failed.append(seed)
                if len(failed) == 2:
                    raise MemoryError
            return figures

        monkeypatch.setattr(host.gradient, "add", add_but_once)
        assert host.compute(window).figures.split_batches == 1
        assert torch.allclose(host.flat.gradients, one.flat.gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.processes
def test_a_device_that_fails_or_ends_is_told_with_what_it_has_left(toy_run):
    config = toy_config()
    batches = [next(OneWorker(toy_run, config).batches) for _ in range(2)]
    broken = AssignedBatch(0, 1, batches[1].sentences + 10**6)
    failed = pytest.raises(NmtasyncError, match=r"(?s)Traceback.*its device 1 failed: IndexError")
    with host_of(toy_run, config, num_devices=2) as host, failed:
        host.compute([batches[0], broken])
    with host_of(toy_run, config, num_devices=2) as host:
        (member,) = host.others.members
        os.kill(member.child.process.pid, signal.SIGKILL)
        with pytest.raises(NmtasyncError, match=r"its device 1 was killed by signal 9"):
            host.compute(batches)
