"""Hosts whose devices sum their gradients: each is one worker with a delay for all of them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from nmtasync.config.load import resolve
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.training.simulation.cost_model import CostModel
from nmtasync.worker.batch_gradient import BatchGradient
from nmtasync.worker.local_optimizer import LocalOptimizer
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import Worker
from tests.support.one_worker import OneWorker
from tests.support.runs import (
    assert_same_state,
    copy_of,
    events,
    final_state,
    learnt,
    simulate,
    words_of_an_epoch,
)
from tests.support.toy import toy_config

HOSTS = {"asynchronous__hosts": "synchronous"}
LOCAL = {
    "asynchronous__local_optimizer_batches": "always",
    "asynchronous__local_push": "delta",
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"asynchronous__overlap": True},
        {"asynchronous__exchange_precision": "bf16", "asynchronous__drop_rate": 0.8},
        {"asynchronous__rule": "delay-compensation"},
    ],
    ids=["plain", "overlap", "sparse in bf16", "compensation"],
)
@pytest.mark.parametrize(("hosts", "others"), [("3", "1"), ("3,3", "1,1")])
def test_a_host_of_n_with_a_delay_is_one_worker_with_n_times_the_delay_bit_for_bit(
    toy_run, hosts, others, options
):
    other = copy_of(toy_run)
    devices = ",".join("1" * sum(map(int, hosts.split(","))))
    options = {**options, "training__max_updates": 13}
    simulate(
        toy_run,
        **HOSTS,
        **options,
        asynchronous__optimizer_delay=2,
        simulation__hosts=hosts,
        simulation__speeds=devices,
    )
    simulate(
        other,
        **options,
        asynchronous__optimizer_delay=6,
        simulation__hosts=others,
        simulation__speeds=others,
    )
    (vectors, state), (expected, expected_state) = final_state(toy_run), final_state(other)
    assert vectors.keys() == expected.keys()
    assert all(torch.equal(vectors[name], expected[name]) for name in expected)
    assert learnt(state) == learnt(expected_state)
    assert state["progress"] == expected_state["progress"], "also in bytes"
    assert state["cursor"] == expected_state["cursor"]


def test_a_host_takes_the_time_of_its_slowest_device_and_of_the_sum(toy_run, pushes):
    """Devices of speeds 1 and 2 with two batches of 1 s each: 2 s and 1 s.

    The sum goes to the host's memory and back: twice 1,000 bytes at 2,000 a second. Host 0 has
    the server beside it, 0.5 s each way: it pushes at 0.5 + 2 + 1 + 0.5. Host 1 has a network of
    0.25 s each way, and is done at 0.25 + 2 + 1 + 0.25.
    """
    simulate(
        toy_run,
        **HOSTS,
        asynchronous__optimizer_delay=2,
        simulation__hosts="2,2",
        simulation__speeds="1,2,2,1",
        simulation__num_parameters=250,
        simulation__exchange_bytes_per_second=2000.0,
        simulation__network_bytes_per_second=4000.0,
        training__max_updates=4,
    )
    assert [(moment, worker) for moment, worker, _ in pushes] == [
        (3.5, 1), (4.0, 0), (7.0, 1), (8.0, 0)
    ]  # fmt: skip


def test_with_local_steps_all_wait_for_the_slowest_device_at_each(toy_run):
    config = toy_config(
        asynchronous__driver="simulated",
        simulation__speeds="1,2,1",
        simulation__hosts="2,1",
        simulation__speed_jitter=0.5,
        simulation__exchange_latency_seconds=0.25,
        **HOSTS,
    )
    corpus = ParallelShards.open(toy_run.data / "train")
    costs = CostModel(config, corpus, 300)
    window = OneWorker(toy_run, toy_config()).batches
    batches = [next(window) for _ in range(5)]
    single = toy_config(
        asynchronous__driver="simulated",
        simulation__speeds="1,2,1",
        simulation__speed_jitter=0.5,
    )
    alone = CostModel(single, corpus, 300)
    first, second = (alone.compute_seconds(device, batches) for device in (0, 1))
    assert first[1] != 2 * second[1], "each device varies by itself"
    half = Fraction(1, 2)
    assert costs.compute_seconds(0, batches, locally=True) == [
        max(first[0], second[1]) + half,
        max(first[2], second[3]) + half,
        first[4] + half,
    ]
    whole = max(first[0] + first[2] + first[4], second[1] + second[3])
    assert costs.compute_seconds(0, batches) == [whole + half]
    third = alone.compute_seconds(2, batches)
    assert costs.compute_seconds(1, batches) == third, "a host of one device sums nothing"


def test_a_local_step_of_a_host_is_made_of_a_batch_of_each_device(toy_run):
    """Against gradients that are computed one by one, at the same parameters, and summed here."""
    config = toy_config(**LOCAL)
    one, plain = OneWorker(toy_run, config), OneWorker(toy_run, toy_config())
    place, corpus = WorkerPlace(0, num_devices=2), one.worker.gradient.corpus
    host = Worker(place, one.flat, corpus, config)
    host.versions = one.worker.versions
    batches = [next(one.batches) for _ in range(4)]
    push = host.compute(batches).push
    own = LocalOptimizer(plain.flat, BatchGradient(plain.flat), config)
    own.begin_window()
    for pair in (batches[:2], batches[2:]):
        plain.worker.gradient.begin_sum()
        figures = [plain.worker.gradient.add_assigned(batch) for batch in pair]
        own.gradient.copy_(plain.flat.gradients)
        words = sum(each.target_words for each in figures)
        own.update(words, max(host.versions) + 1, batches[0].progress)
    assert push.target_words > 0
    assert torch.allclose(one.flat.parameters, plain.flat.parameters, rtol=1e-6, atol=1e-8)
    own.end_window(push.target_words)
    assert torch.allclose(one.flat.gradients, plain.flat.gradients, rtol=1e-4, atol=1e-5)
    assert host.local.updates == 2 and host.batches == 4


@pytest.mark.parametrize("options", [{}, LOCAL], ids=["gradients", "deltas"])
def test_hosts_that_fail_and_resumes_change_nothing(toy_run, options):
    other = copy_of(toy_run)
    options = {
        **options,
        **HOSTS,
        "asynchronous__optimizer_delay": 2,
        "simulation__hosts": "2,3,1",
        "simulation__speeds": "1,2,1,1,1.5,2",
        "simulation__speed_jitter": 0.3,
        "simulation__host_failure_seconds": 4.0,
        "simulation__host_outage_seconds": 2.0,
        "simulation__num_parameters": 250,
        "simulation__network_bytes_per_second": 2000.0,
        "simulation__network_jitter": 0.2,
        "training__max_epochs": 4,
        "training__validate_every": 1000,
    }
    summary = simulate(toy_run, **options)
    assert summary.target_words == 4 * words_of_an_epoch(toy_run)
    assert {event["worker"] for event in events(toy_run, "worker")} <= {1, 2}
    assert len(events(toy_run, "worker")) >= 2, "or no host has failed"
    for updates in (3, 4, 7):
        simulate(other, training__max_updates=updates, **options)
    simulate(other, training__max_updates=None, **options)
    assert_same_state(toy_run, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"asynchronous.own_shard": "batch"}, "hosts: is 'synchronous', but .*own_shard"),
        (
            {
                "asynchronous.local_write_back": True,
                "asynchronous.local_optimizer_batches": 9,
                "asynchronous.optimizer_delay": 2,
            },
            "hosts: is 'synchronous', but .*local_write_back",
        ),
        (
            {"asynchronous.optimizer_delay": "auto", "schedule.words_scaling": "sqrt"},
            "hosts: is 'synchronous', but .*optimizer_delay is 'auto'",
        ),
        ({"simulation.hosts": None}, "hosts: has no effect while simulation.hosts is 'none'"),
        ({"simulation.synchronous": True}, "hosts: has no effect while simulation.synchronous"),
    ],
)
def test_what_it_cannot_go_with_is_refused(change, words):
    chosen = {
        "asynchronous.driver": "simulated",
        "asynchronous.hosts": "synchronous",
        "simulation.speeds": "1,1",
        "simulation.hosts": "1,1",
    }
    resolve(chosen)
    with pytest.raises(UserError, match=words) as refusal:
        resolve(chosen, change)
    assert "\n" not in str(refusal.value)
