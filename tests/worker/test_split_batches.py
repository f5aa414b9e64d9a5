"""Batches for which memory does not suffice: computed in parts, with the gradient of the whole."""

from __future__ import annotations

import pytest
import torch

from nmtasync.data.batches import Batch
from nmtasync.machine.memory import compute_in_parts
from nmtasync.run_directory import RunDirectory
from nmtasync.worker import gradient
from nmtasync.worker.gradient import GradientFunction, WindowGradient
from tests.support.command_line import CommandLine
from tests.support.one_worker import OneWorker
from tests.support.runs import events, final_state, simulate, train_toy
from tests.support.toy import TOY_FLAGS, toy_config

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]
NO_DROPOUT = {"model__dropout": 0.0}


def exhaust(
    monkeypatch: pytest.MonkeyPatch,
    most_sentences: int,
    where: str = "forward",
    error: Exception = ERRORS[0],
) -> list[int]:
    """Let memory suffice for so many sentences only; return the list of those that were refused.

    It lacks at the beginning, or in the middle of the backward pass, when a part of the batch's
    gradient has been added already.
    """
    refused: list[int] = []
    sum_losses = gradient.sum_losses

    def limited(model, batch: Batch, outputs, *rest):
        if len(batch.source) > most_sentences:
            refused.append(len(batch.source))
            if where == "forward":
                raise error

            def fail(last_gradient: torch.Tensor) -> None:
                hook.remove()
                added = model.get_parameter("decoder.0.attention_norm.weight").grad
                assert added.count_nonzero() > 0
                raise error

            hook = model.get_parameter("encoder.0.attention_norm.weight").register_hook(fail)
        return sum_losses(model, batch, outputs, *rest)

    monkeypatch.setattr(gradient, "sum_losses", limited)
    return refused


def windows(run: RunDirectory, number: int = 2, **changes: object) -> list[torch.Tensor]:
    """The gradients of the first windows of two batches, on parameters that stay the same."""
    config = toy_config(optimizer__clip_norm=None, **{**NO_DROPOUT, **changes})
    ours = OneWorker(run, config)
    found = []
    for _ in range(number):
        window = [next(ours.batches) for _ in range(2)]
        ours.worker.compute(window)
        found.append(ours.flat.gradients.clone())
    return found


PRECISIONS = {"fp32": 1e-5, "bf16": 5e-2}


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("most_sentences", "precision"), [(1, "fp32"), (4, "fp32"), (4, "bf16")])
def test_the_gradient_of_halves_is_that_of_the_whole(
    toy_run, monkeypatch, where, most_sentences, precision
):
    options = {"training__precision": precision}
    whole = windows(toy_run, **options)
    refused = exhaust(monkeypatch, most_sentences, where)
    parts = windows(toy_run, **options)
    assert len(refused) > 3, "or nothing was split"
    for ours, expected in zip(parts, whole, strict=True):
        distance = float((ours - expected).norm() / expected.norm())
        assert distance < PRECISIONS[precision]


@pytest.mark.parametrize("error", ERRORS, ids=["GPU", "CPU", "Python"])
def test_every_kind_of_lack_of_memory_is_met(toy_run, monkeypatch, error):
    (expected,) = windows(toy_run, 1)
    assert not exhaust(monkeypatch, 10**6, error=error)
    refused = exhaust(monkeypatch, 4, error=error)
    (ours,) = windows(toy_run, 1)
    assert refused
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_other_errors_and_single_sentences_that_do_not_fit_go_on(toy_run, monkeypatch):
    exhaust(monkeypatch, 4, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        windows(toy_run, 1)
    refused = exhaust(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        windows(toy_run, 1)
    assert refused[-1] == 1


def test_parts_drop_elements_of_their_own(toy_run, monkeypatch):
    """Twice the same half of a batch would drop the same, if it were not for its place."""
    seeds: list[int] = []
    add = GradientFunction.add

    def noted(self: GradientFunction, batch: Batch, seed: int, *rest):
        seeds.append(seed)
        return add(self, batch, seed, *rest)

    monkeypatch.setattr(GradientFunction, "add", noted)
    windows(toy_run, 1)
    whole = list(seeds)
    exhaust(monkeypatch, 2)
    seeds.clear()
    windows(toy_run, 1)
    fitting = set(seeds) - set(whole)
    assert len(set(seeds)) == len(fitting) + len(whole) > 4


@pytest.mark.parametrize(
    "options",
    [
        {"asynchronous__local_optimizer_batches": "always", "asynchronous__optimizer_delay": 2},
        {"asynchronous__local_optimizer_batches": 3, "asynchronous__optimizer_delay": 2},
        {"asynchronous__own_shard": "batch", "asynchronous__optimizer_delay": 2},
    ],
    ids=["local optimizer", "until the middle of a window", "own shard"],
)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_runs_with_parts_come_where_runs_without_come(toy_run, monkeypatch, options, where):
    # with a usual epsilon Adam makes whole steps of gradients that are only rounding errors
    options = {**options, **NO_DROPOUT, "optimizer__epsilon": 1e-3, "training__max_updates": 4}
    speeds = {"simulation__speeds": "1,1", "training__log_every_seconds": 0.0}
    simulate(toy_run, resume=False, **speeds, **options)
    expected, state = final_state(toy_run)
    assert state["progress"]["split_batches"] == 0
    refused = exhaust(monkeypatch, 5, where)
    simulate(toy_run, resume=False, **speeds, **options)
    ours, state = final_state(toy_run)
    assert refused and 0 < state["progress"]["split_batches"] <= len(refused)
    torch.testing.assert_close(ours["parameters"], expected["parameters"], rtol=1e-3, atol=1e-5)


def test_it_is_told_once_and_counted(toy_run, monkeypatch, nmtasync: CommandLine):
    exhaust(monkeypatch, 5)
    flags = ["--set=training.log_every_seconds=0", "--max-updates=12"]
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("has too little memory for a batch, and computes it in parts") == 1
    number = final_state(toy_run)[1]["progress"]["split_batches"]
    assert number > 3
    assert sum(line["split_batches"] for line in events(toy_run, "train")) == number
    assert events(toy_run, "end")[-1]["split_batches"] == number
    assert f"split:        {number} batches, for which memory did not suffice" in result.stdout


def test_a_batch_that_fits_is_computed_as_ever(toy_run, monkeypatch):
    train_toy(toy_run, training__max_updates=3)
    expected = final_state(toy_run)[0]["parameters"]

    def never(self: WindowGradient) -> None:
        raise AssertionError

    monkeypatch.setattr(WindowGradient, "_take_back", never)
    train_toy(toy_run, resume=False, training__max_updates=3)
    assert torch.equal(final_state(toy_run)[0]["parameters"], expected)


def test_parts_are_in_order_and_none_is_computed_twice():
    taken_back: list[None] = []

    def compute(places: range) -> list[int]:
        if len(places) > (1 if places.start == 4 else 2):
            raise MemoryError
        return list(places)

    parts = compute_in_parts(7, compute, lambda: taken_back.append(None))
    assert parts == [[0, 1], [2, 3], [4], [5], [6]]
    assert len(taken_back) == len(parts) - 1
