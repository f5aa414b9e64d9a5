"""`nmtasync profile`: figures that add up, a cost model that the simulator takes, refusals."""

from __future__ import annotations

import json

import pytest
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from nmtasync.config.load import read_toml, resolve
from nmtasync.data.batches import collate, plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.profiling.figures import (
    COMPUTING,
    BatchCost,
    ExchangeCost,
    Profile,
    fit_line,
)
from nmtasync.profiling.profile import profile
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine
from tests.support.toy import TOY_MODEL

FLAGS = [f"--set={n}={str(v).lower() if isinstance(v, bool) else v}" for n, v in TOY_MODEL.items()]


def test_a_line_is_found_again():
    words = [100, 50, 400, 220]
    fixed, slope = fit_line(words, [0.03 + 0.002 * n for n in words])
    assert (fixed, slope) == (pytest.approx(0.03), pytest.approx(0.002))


def test_no_cost_is_below_zero():
    assert fit_line([1, 2, 3], [3.0, 2.0, 1.0]) == (2.0, 0.0)
    fixed, slope = fit_line([10, 20, 30], [0.5, 2.0, 3.5])
    assert fixed == 0.0 and slope == pytest.approx((5 + 40 + 105) / 1400)
    assert fit_line([7, 7], [1.0, 3.0]) == (2.0, 0.0), "batches of one size tell no slope"


def batch_cost(words: int, scale: float = 1.0) -> BatchCost:
    seconds = {phase: scale * words * (i + 1) * 1e-5 for i, phase in enumerate(COMPUTING)}
    return BatchCost(words, words, seconds, operations=words * 1000)


def some_profile() -> Profile:
    exchange = ExchangeCost(0.02, 0.006, 1e-4, num_parameters=10_000)
    batches, parts = [batch_cost(100), batch_cost(140)], [batch_cost(30), batch_cost(70)]
    return Profile("cpu", 1, "fp32", False, batches, parts, exchange, 4, 1e9, 2e9, 1 << 20)


def test_figures_add_up():
    figures = some_profile().to_json()
    assert sum(figures["shares"].values()) == pytest.approx(1.0)
    total = figures["total_milliseconds_per_batch"]
    assert sum(figures["milliseconds_per_batch"].values()) == pytest.approx(total)
    # 15e-5 seconds a word, 120 words; a fourth of a push of 0.02 + 0.006 + 2 * 0.0001 seconds
    assert total == pytest.approx(1e3 * (120 * 15e-5 + 0.0262 / 4))
    assert figures["target_words_per_second"] == pytest.approx(120 / (total / 1e3))
    assert figures["operations_per_second"] == pytest.approx(1000 / 15e-5)


def test_a_simulated_worker_takes_as_long_as_the_measured_one(tmp_path):
    measured = some_profile()
    path = tmp_path / "cost_model.toml"
    path.write_text(measured.cost_model().to_toml(), "utf-8")
    driver = {"asynchronous.driver": "simulated"}
    options = resolve(read_toml(path), driver).simulation
    assert options.seconds_per_batch == pytest.approx(0.0, abs=1e-9)
    assert options.seconds_per_target_word == pytest.approx(15e-5)
    assert options.exchange_bytes_per_second is not None
    # see docs/simulation.md
    transfer = options.exchange_latency_seconds + 4 * 10_000 / options.exchange_bytes_per_second
    assert 2 * transfer == pytest.approx(0.0262, rel=1e-5)


@pytest.mark.processes
def test_operations_are_those_of_the_plain_network_and_loss(toy_run: RunDirectory):
    settings = {**TOY_MODEL, "model.dropout": 0.0, "training.precision": "fp32"}
    config = resolve(settings, {"data.vocab_size": 46})
    measured = profile(toy_run, settings, "cpu", 1, lambda *_: None).batches[0]
    corpus = ParallelShards.open(toy_run.data / "train")
    lengths = corpus.source_lengths, corpus.target_lengths
    plan = plan_epoch(*lengths, batch_tokens=config.data.batch_tokens, seed=1, epoch=0)
    batch = collate(corpus, plan[0])
    assert measured.target_words == batch.target_words
    model = build_model(config.model, 46, 46)
    with FlopCounterMode(display=False) as counter:
        outputs = model(batch.source, batch.source_mask, batch.target_input)
        logits = model.logits(outputs[batch.target != 0])
        F.cross_entropy(logits, batch.target[batch.target != 0]).backward()
    assert measured.operations == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.processes
def test_reference_words_that_are_auto_are_counted_before_the_exchange(toy_run: RunDirectory):
    settings = {"schedule.words_scaling": "sqrt", "schedule.reference_words": "auto"}
    measured = profile(toy_run, {**TOY_MODEL, **settings}, "cpu", 1, lambda *_: None)
    assert measured.exchange.num_parameters > 0


@pytest.mark.processes
def test_the_command_line(toy_run: RunDirectory, nmtasync: CommandLine, tmp_path):
    result = nmtasync("profile", toy_run.root, "--batches=2", "--device=cpu", *FLAGS, "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures == json.loads((toy_run.logs / "profile.json").read_text("utf-8"))
    assert figures["num_batches"] == 2
    assert all(seconds >= 0.0 for seconds in figures["milliseconds_per_batch"].values())
    assert not toy_run.checkpoints.exists(), "nothing is trained"
    shown = nmtasync("profile", toy_run.root, "--batches=1", "--precision=bf16", *FLAGS)
    assert shown.returncode == 0, shown.stderr
    for words in ("forward", "backward", "optimizer", "bf16", "GFLOP/s", "cost_model.toml"):
        assert words in shown.stdout

    more = tmp_path / "more.toml"
    more.write_text("[simulation]\nspeeds = '1,2'\n", "utf-8")
    cost_model = toy_run.logs / "cost_model.toml"
    both = ("--config", cost_model, "--config", more)
    trained = nmtasync(
        "train", toy_run.root, *FLAGS, *both, "--driver=simulated", "--max-updates=3", "--json"
    )
    assert trained.returncode == 0, trained.stderr
    kept = read_toml(toy_run.config)
    measured = read_toml(cost_model)
    assert {name: kept[name] for name in measured} == measured
    assert kept["simulation.speeds"] == "1,2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda:7"], ["--device", "there is no cuda:7"]),
        (["--device", "tpu"], ["--device", "'tpu' is no device"]),
        (["--batches", "0"], ["--batches"]),
        (["--set", "training.tf32=true"], ["training.tf32", "no GPU"]),
    ],
)
def test_what_can_t_be_measured_is_refused(
    toy_run: RunDirectory, nmtasync: CommandLine, arguments, words
):
    result = nmtasync("profile", toy_run.root, *arguments)
    assert result.returncode == 2, result.stderr
    assert all(word in result.stderr for word in words)
    assert "Traceback" not in result.stderr
    assert not toy_run.logs.exists()


def test_without_data_there_is_nothing_to_measure(tmp_path, nmtasync: CommandLine):
    result = nmtasync("profile", tmp_path / "none")
    assert result.returncode == 2
    assert "has not been preprocessed" in result.stderr
