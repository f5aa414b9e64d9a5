"""Training with 16 bits between workers and server: as good, repeatable, counted in bytes."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from nmtasync.config.load import resolve
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.training.simulation.cost_model import CostModel
from tests.support.replays import assert_replayed, log_of, replay, train_until_both_have_pushed
from tests.support.runs import (
    assert_same_state,
    copy_of,
    events,
    final_state,
    simulate,
    train_toy,
)
from tests.support.toy import toy_config

BF16 = {"asynchronous__exchange_precision": "bf16"}


def size_of(run) -> int:
    return final_state(run)[0]["parameters"].numel()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_come_as_far_as_thirty_two(toy_run, precision):
    """Four workers, late and with windows of two: by the loss, which has fallen far."""
    found = {}
    for name in ("fp32", precision):
        simulate(
            toy_run,
            resume=False,
            asynchronous__exchange_precision=name,
            asynchronous__optimizer_delay=2,
            simulation__speeds="1,1,1,1",
            training__max_updates=400,
            training__validate_every=400,
            optimizer__smoothing=None,
            schedule__learning_rate=5e-3,
        )
        found[name] = events(toy_run, "valid")[-1]["cross_entropy"]
    assert found["fp32"] < 1.5, "or little was learnt"
    assert found[precision] == pytest.approx(found["fp32"], rel=0.03)
    assert found[precision] != found["fp32"], "or nothing was rounded"


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("drop_rate", [None, 0.5])
def test_a_simulation_goes_on_bit_for_bit(toy_run, overlap, drop_rate):
    other = copy_of(toy_run)
    options = {
        **BF16,
        "asynchronous__overlap": overlap,
        "asynchronous__drop_rate": drop_rate,
        "simulation__speeds": "1,2,1.5",
        "simulation__failures": "1@3-6",
        "simulation__exchange_bytes_per_second": 1e5,
        "training__validate_every": 1000,
    }
    simulate(toy_run, training__max_updates=20, **options)
    for updates in (5, 6, 20):
        simulate(other, training__max_updates=updates, **options)
    assert_same_state(toy_run, other)
    assert final_state(toy_run)[0]["residual.0"].any()


@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [BF16, {**BF16, "asynchronous__overlap": True, "asynchronous__drop_rate": 0.8}],
    ids=["dense", "sparse with overlap"],
)
def test_a_run_in_processes_is_replayed_bit_for_bit(toy_run, options):
    other = copy_of(toy_run)
    train_until_both_have_pushed(toy_run, 8, **options)
    replay(other, log_of(toy_run), **{**options, "asynchronous__exchange_precision": "fp32"})
    exact = final_state(other)[0]["parameters"]
    replay(other, log_of(toy_run), resume=False, **options)
    assert_replayed(toy_run, other)
    assert not torch.equal(exact, final_state(other)[0]["parameters"]), "or nothing was rounded"


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_bytes_are_counted_in_all_places_and_over_resumes(toy_run, precision, width):
    """A push and its answer for each update."""
    options = {"asynchronous__exchange_precision": precision}
    train_toy(toy_run, training__max_updates=3, **options)
    summary = train_toy(toy_run, training__max_updates=5, **options)
    size = size_of(toy_run)
    sums = dict.fromkeys(("bytes_sent", "bytes_received"), 5 * width * size)
    state = final_state(toy_run)[1]["progress"]
    for name, expected in sums.items():
        assert getattr(summary, name) == state[name] == expected
        assert events(toy_run, "end")[-1][name] == expected
        assert sum(line[name] for line in events(toy_run, "train")) == expected


def test_sparse_pushes_are_counted_by_what_travels(toy_run):
    simulate(toy_run, training__max_updates=4, asynchronous__drop_rate=0.9, **BF16)
    size = size_of(toy_run)
    kept = size - int(size * 0.9)
    sent = final_state(toy_run)[1]["progress"]["bytes_sent"]
    assert 0.9 * 4 * 6 * kept < sent <= 4 * 6 * kept, "some of the largest may be zero"


def test_shards_that_lie_with_the_worker_are_not_counted(toy_run):
    own = {"asynchronous__own_shard": "batch", "simulation__speeds": "1,1"}
    simulate(toy_run, training__max_updates=12, **own)
    vectors, state = final_state(toy_run)
    travels = state["progress"]["bytes_sent"] / state["progress"]["pushes"]
    assert travels == pytest.approx(4 * vectors["parameters"].numel() / 2, rel=0.05)


def test_bytes_of_synchronous_workers_are_not_counted(toy_run):
    summary = simulate(
        toy_run, training__max_updates=3, simulation__speeds="1,1", simulation__synchronous=True
    )
    assert summary.bytes_sent == summary.bytes_received == 0


def test_half_the_bytes_take_half_the_time(toy_run):
    corpus = ParallelShards.open(toy_run.data / "train")

    def seconds(**options: object) -> list[Fraction]:
        config = toy_config(
            asynchronous__driver="simulated",
            simulation__exchange_bytes_per_second=400.0,
            simulation__exchange_latency_seconds=0.5,
            **{f"asynchronous__{name}": value for name, value in options.items()},
        )
        costs = CostModel(config, corpus, 300)
        sizes = costs.fetch_bytes(0), costs.push_bytes(0, 0)
        return [2 * costs.transfer(0, size).seconds for size in sizes]

    assert seconds() == [7, 7]
    assert seconds(exchange_precision="bf16") == seconds(exchange_precision="fp16") == [4, 4]
    assert seconds(drop_rate=0.9) == [7, 1 + Fraction(2 * 30 * 8, 400)]
    assert seconds(drop_rate=0.9, exchange_precision="bf16") == [4, 1 + Fraction(2 * 30 * 6, 400)]
    assert seconds(drop_rate=0.6, exchange_precision="bf16") == [4, 4], "it is shorter dense"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"asynchronous.driver": "synchronous"}, "exchange_precision.*no effect.*synchronous"),
        (
            {"asynchronous.driver": "simulated", "simulation.synchronous": True},
            "exchange_precision.*no effect.*simulation.synchronous",
        ),
        ({"asynchronous.own_shard": "batch"}, "is 'bf16', but asynchronous.own_shard is 'batch'"),
        (
            {
                "asynchronous.local_write_back": True,
                "asynchronous.local_optimizer_batches": 9,
                "asynchronous.optimizer_delay": 2,
            },
            "is 'bf16', but asynchronous.local_write_back writes",
        ),
    ],
)
def test_what_it_cannot_go_with_is_refused(change, words):
    with pytest.raises(UserError, match=words) as refusal:
        resolve({"asynchronous.exchange_precision": "bf16"}, change)
    assert "\n" not in str(refusal.value)
