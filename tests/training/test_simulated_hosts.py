"""Simulated hosts: one network interface for all, a busy server, hosts that fail."""

from __future__ import annotations

import itertools
import statistics
from fractions import Fraction

import pytest
import torch

from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.training.session import Session
from nmtasync.training.simulation.chance import until_failure
from nmtasync.training.simulation.cost_model import CostModel
from tests.support.runs import (
    assert_same_state,
    copy_of,
    events,
    final_state,
    simulate,
    train_toy,
    words_of_an_epoch,
)
from tests.support.toy import toy_config


def thousand_bytes(seconds: float) -> dict[str, object]:
    """A vector of 250 parameters, which takes so long between hosts."""
    return {
        "simulation__num_parameters": 250,
        "simulation__network_bytes_per_second": 1000.0 / seconds,
    }


EVENTFUL = {
    "asynchronous__optimizer_delay": 2,
    "asynchronous__local_optimizer_batches": "always",
    "simulation__speeds": "1,2,1.5,1,1,3",
    "simulation__hosts": "1,2,3",
    "simulation__speed_jitter": 0.3,
    "simulation__network_jitter": 0.4,
    "simulation__network_latency_seconds": 0.05,
    "simulation__server_seconds": 0.11,
    "simulation__host_failure_seconds": 9.0,
    "simulation__host_outage_seconds": 2.5,
    **thousand_bytes(0.5),
}
"""Everything at once."""


def test_transfers_pass_the_interface_of_the_server_one_after_another(toy_run, pushes):
    """Worker 0 beside the server, 1 and 2 elsewhere; a batch takes 1 s, a transfer 0.5 + 0.1 s.

    Parameters leave for 1 at 0 and for 2 at 0.5: there at 0.6 and 1.1, computed at 1.6 and 2.1.
    The push of 1 passes from 1.6 to 2.1 and arrives at 2.2; that of 2 from 2.1 to 2.6, at 2.7.
    Its parameters leave for 1 at 2.2, are there at 2.8, computed at 3.8, pass until 4.3: at 4.4.
    For 2 they leave at 2.7, which is when the interface is free again: all is 0.5 s later, at 4.9.
    """
    simulate(
        toy_run,
        simulation__speeds="1,1,1",
        simulation__hosts="1,2",
        simulation__network_latency_seconds=0.1,
        training__max_updates=8,
        **thousand_bytes(0.5),
    )
    assert [(moment, worker) for moment, worker, _ in pushes] == [
        (1.0, 0), (2.0, 0), (2.2, 1), (2.7, 2), (3.0, 0), (4.0, 0), (4.4, 1), (4.9, 2)
    ]  # fmt: skip
    assert [late for _, _, late in pushes] == [0, 0, 2, 3, 2, 0, 3, 3]


def test_parameters_wait_for_each_other_too(toy_run, pushes):
    """Four workers elsewhere, for which a batch takes no time: both ways are full."""
    simulate(
        toy_run,
        simulation__speeds="0.001,1,1,1,1",
        simulation__hosts="1,4",
        simulation__seconds_per_batch=0.001,
        training__max_updates=30,
        **thousand_bytes(1.0),
    )
    moments = [moment for moment, worker, _ in pushes if worker]
    gaps = [after - before for before, after in itertools.pairwise(moments[8:])]
    # a push passes each second, but for the wait of the first of a round for its parameters
    assert statistics.fmean(gaps) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("overlap", [False, True])
def test_what_the_network_lets_pass_bounds_the_pace(toy_run, pushes, overlap):
    """Eight workers that push 1,000 bytes each second, and 2,000 pass in one: two pushes."""
    simulate(
        toy_run,
        asynchronous__overlap=overlap,
        simulation__speeds=",".join("1" * 9),
        simulation__hosts="1,8",
        training__max_updates=90,
        **thousand_bytes(0.5),
    )
    far = [moment for moment, worker, _ in pushes if worker]
    assert (len(far) - 20) / (far[-1] - far[19]) == pytest.approx(2.0, rel=0.05)


def test_the_server_takes_one_push_after_another(toy_run, pushes):
    """Four at 1 s, each takes 0.25 s; whoever was first has computed again at 2.25 s."""
    simulate(
        toy_run,
        simulation__speeds="1,1,1,1",
        simulation__server_seconds=0.25,
        training__max_updates=8,
    )
    assert [moment for moment, *_ in pushes] == [1.25, 1.5, 1.75, 2.0, 2.5, 2.75, 3.0, 3.25]
    assert [late for *_, late in pushes] == [0, 1, 2, 3, 3, 3, 3, 3]


def test_one_host_is_what_there_was_without_hosts(toy_run):
    other = copy_of(toy_run)
    options = {
        "simulation__speeds": "1,2,1.5",
        "simulation__failures": "1@3-6",
        "simulation__exchange_latency_seconds": 0.05,
        "simulation__exchange_bytes_per_second": 1e5,
        "training__max_updates": 20,
    }
    simulate(toy_run, **options)
    simulate(other, simulation__hosts="3", **options)
    assert_same_state(toy_run, other)


def test_an_exchange_is_said_to_take_what_it_takes(toy_run, monkeypatch):
    """With its waits: a lone worker elsewhere is either computing, or exchanging, or served."""
    seen = []
    exchange = Session.exchange

    def noted(self: Session, computed, payload, landing, exchange_seconds):
        if computed.push.worker == 1:
            spent = computed.figures.compute_seconds + exchange_seconds
            seen.append((self.seconds, spent))
        return exchange(self, computed, payload, landing, exchange_seconds)

    monkeypatch.setattr(Session, "exchange", noted)
    simulate(
        toy_run,
        simulation__speeds="3,1,1",
        simulation__hosts="1,2",
        simulation__server_seconds=0.07,
        simulation__network_jitter=0.5,
        training__max_updates=40,
        **thousand_bytes(0.4),
    )
    assert len(seen) >= 5
    passed = [after - before for before, after in itertools.pairwise([0, *(s for s, _ in seen)])]
    assert passed == pytest.approx([spent for _, spent in seen])


@pytest.mark.parametrize("overlap", [False, True])
def test_stopped_and_resumed_is_never_interrupted_bit_for_bit(toy_run, overlap):
    other = copy_of(toy_run)
    options = {**EVENTFUL, "asynchronous__overlap": overlap, "training__validate_every": 1000}
    simulate(toy_run, training__max_updates=40, **options)
    waiting = set()
    for updates in (1, 2, 3, 5, 6, 11, 12, 13, 20, 21, 30, 40):
        simulate(other, training__max_updates=updates, **options)
        flights = final_state(other)[1]["simulation"]["flights"]
        waiting |= {flight["sent"] is None for flight in flights}
    assert_same_state(toy_run, other)
    assert waiting == {True, False}, "or little was tested"
    happened = [(entry["worker"], entry["what"]) for entry in events(toy_run, "worker")]
    assert {"died", "returned"} == {what for _, what in happened}


def test_a_host_fails_with_all_its_workers_and_their_batches_are_used(toy_run):
    summary = simulate(
        toy_run, training__max_epochs=4, **{**EVENTFUL, "simulation__host_failure_seconds": 4.0}
    )
    assert summary.target_words == 4 * words_of_an_epoch(toy_run)
    happened = [(line["time_seconds"], line["what"]) for line in events(toy_run, "worker")]
    workers = [line["worker"] for line in events(toy_run, "worker")]
    assert 0 not in workers, "the server's host does not fail"
    together: dict[tuple[float, str], set[int]] = {}
    for key, worker in zip(happened, workers, strict=True):
        together.setdefault(key, set()).add(worker)
    assert len(together) > 3 and set(map(frozenset, together.values())) <= {
        frozenset({1, 2}),
        frozenset({3, 4, 5}),
    }


def test_a_host_that_is_named_fails_when_it_is_said(toy_run):
    simulate(
        toy_run,
        simulation__speeds="1,1,1",
        simulation__hosts="1,2",
        simulation__failures="h1@2.5-4,0@5.5",
        training__max_updates=12,
    )
    happened = [(e["time_seconds"], e["worker"], e["what"]) for e in events(toy_run, "worker")]
    assert happened == [
        (2.5, 1, "died"), (2.5, 2, "died"), (4.0, 1, "returned"), (4.0, 2, "returned"),
        (5.5, 0, "died"),
    ]  # fmt: skip


def test_failures_come_as_often_as_is_said():
    times = [until_failure(100.0, 1, 3, Fraction(start)) for start in range(20_000)]
    assert statistics.fmean(times) == pytest.approx(100.0, rel=0.03)
    assert statistics.stdev(times) == pytest.approx(100.0, rel=0.03), "exponential"
    assert min(times) > 0


@pytest.mark.parametrize(("options", "factor"), [({}, 1.0), ({"exchange_precision": "bf16"}, 0.5)])
def test_jitter_varies_around_what_a_transfer_takes(toy_run, options, factor):
    config = toy_config(
        asynchronous__driver="simulated",
        simulation__speeds="1,1",
        simulation__hosts="1,1",
        simulation__network_jitter=0.2,
        simulation__exchange_bytes_per_second=1.0,
        **thousand_bytes(2.0),
        **{f"asynchronous__{name}": value for name, value in options.items()},
    )
    corpus = ParallelShards.open(toy_run.data / "train")
    costs = CostModel(config, corpus, 17)
    size = costs.fetch_bytes(1)
    assert size == 1000 * factor and costs.transfer(1, size).seconds == 2 * factor
    assert costs.transfer(0, size, "fetch").seconds == size, "inside a host"


def test_synchronous_workers_reduce_inside_hosts_and_in_a_ring_between(toy_run):
    """250 parameters at 1,000 bytes a second inside; four hosts at 500, 0.01 s a message."""
    corpus = ParallelShards.open(toy_run.data / "train")

    def seconds(hosts: str | None) -> Fraction:
        config = toy_config(
            asynchronous__driver="simulated",
            simulation__synchronous=True,
            simulation__speeds=",".join("1" * 8),
            simulation__hosts=hosts,
            simulation__exchange_bytes_per_second=1000.0,
            **({"simulation__network_latency_seconds": 0.01} if hosts else {}),
            **({"simulation__num_parameters": 250} if not hosts else thousand_bytes(2.0)),
        )
        return CostModel(config, corpus, 17).reduction_seconds()

    assert seconds(None) == 2
    assert seconds("2,2,2,2") == 2 + 2 * 3 * (Fraction(1, 100) + Fraction(1, 2))
    assert seconds("1,1,1,1,1,1,1,1") == 2 * 7 * (Fraction(1, 100) + Fraction(1, 4))


def test_jitter_of_the_network_changes_times_and_is_seeded(toy_run, pushes):
    found = []
    for jitter, seed in ((0.0, 1), (0.3, 1), (0.3, 1), (0.3, 2)):
        simulate(
            toy_run,
            resume=False,
            simulation__speeds="1,1",
            simulation__hosts="1,1",
            simulation__network_jitter=jitter,
            training__seed=seed,
            training__max_updates=12,
            **thousand_bytes(0.5),
        )
        found.append([moment for moment, worker, _ in pushes if worker])
        pushes.clear()
    assert found[1] == found[2]
    assert found[0] != found[1] != found[3]


SIMULATED = {"asynchronous__driver": "simulated", "simulation__speeds": "1,1,1"}
TWO_HOSTS = {**SIMULATED, "simulation__hosts": "1,2"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({**SIMULATED, "simulation__hosts": "1,1"}, r"has 2 workers, but simulation\.speeds .* 3"),
        ({**SIMULATED, "simulation__hosts": "1,x"}, "'x' is no number of workers"),
        ({**SIMULATED, "simulation__hosts": "3,0"}, "'0' is no number of workers"),
        ({**SIMULATED, "simulation__network_jitter": 0.1}, "network_jitter.*hosts is 'none'"),
        ({**TWO_HOSTS, "simulation__failures": "h2@5"}, "names host 2"),
        ({**TWO_HOSTS, "simulation__failures": "h0@5"}, "names the host of the server"),
        ({**TWO_HOSTS, "simulation__failures": "h1@5,2@9"}, "die at 9 s, when it is not alive"),
        (
            {
                **TWO_HOSTS,
                "simulation__failures": "1@5",
                "simulation__host_failure_seconds": 9.0,
            },
            "host_failure_seconds: has no effect while simulation.failures",
        ),
        ({**TWO_HOSTS, "simulation__host_outage_seconds": 9.0}, "host_failure_seconds is 'none'"),
        (
            {**SIMULATED, "simulation__hosts": "3", "simulation__host_failure_seconds": 9.0},
            "is the server's host alone",
        ),
        (
            {**TWO_HOSTS, "simulation__synchronous": True, "simulation__server_seconds": 0.1},
            "server_seconds.*simulation.synchronous is true",
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused(toy_run, options, words):
    before = toy_run.config.read_bytes()
    with pytest.raises(UserError, match=words) as refusal:
        train_toy(toy_run, **options)
    assert "\n" not in str(refusal.value)
    assert toy_run.config.read_bytes() == before


def test_hosts_change_when_and_not_what(toy_run):
    """The first window of each worker is computed from the same batches."""
    other = copy_of(toy_run)
    options = {"simulation__speeds": "1,1", "training__max_updates": 1}
    simulate(toy_run, **options)
    simulate(other, simulation__hosts="1,1", **options, **thousand_bytes(0.5))
    vectors = [final_state(run)[0]["parameters"] for run in (toy_run, other)]
    assert torch.equal(*vectors)
