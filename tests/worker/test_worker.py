"""One worker against plain PyTorch, and what local optimizers may and may not touch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nmtasync.data.batches import collate
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.models.loss import loss_sums
from nmtasync.optim.flat import FlatModel
from nmtasync.optim.schedules import learning_rate_at
from nmtasync.worker.batch_gradient import BatchGradient
from nmtasync.worker.gradient import add_gradient, batch_seed
from nmtasync.worker.local_optimizer import LocalOptimizer
from tests.support.one_worker import VOCABULARY, OneWorker, assigned_batches, plain_loop, toy_model
from tests.support.runs import final_state, train_toy
from tests.support.toy import toy_config


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_one_worker_is_a_plain_loop_of_torch_adam_bit_for_bit(
    toy_run, num_shards, delay, clip_norm
):
    config = toy_config(
        asynchronous__optimizer_delay=delay,
        optimizer__clip_norm=clip_norm,
        schedule__warmup_updates=3,
    )
    ours = OneWorker(toy_run, config, num_shards)
    for update, parameters in plain_loop(toy_run, config, num_updates=6):
        ours.push()
        assert torch.equal(ours.server.parameters, parameters), f"update {update}"


@pytest.mark.parametrize("delay", [1, 2])
def test_a_worker_with_overlap_computes_on_the_answer_to_its_push_before_last(toy_run, delay):
    """A plain loop of torch's Adam, each gradient of which belongs to one update earlier."""
    config = toy_config(
        asynchronous__overlap=True, asynchronous__optimizer_delay=delay, optimizer__clip_norm=None
    )
    train_toy(
        toy_run,
        asynchronous__overlap=True,
        asynchronous__driver="simulated",
        asynchronous__optimizer_delay=delay,
        asynchronous__momentum_lead=0.0,
        optimizer__beta1=0.9,
        optimizer__beta2=0.98,
        optimizer__clip_norm=None,
        training__max_updates=6,
    )
    torch.manual_seed(config.training.seed)
    flat = FlatModel(build_model(config.model, VOCABULARY, VOCABULARY))
    flat.model.train()
    vector = nn.Parameter(flat.parameters.clone())
    adam = torch.optim.Adam([vector], betas=(0.9, 0.98), eps=1e-9, fused=True)
    corpus = ParallelShards.open(toy_run.data / "train")
    batches = assigned_batches(corpus, config)
    before = vector.data.clone()
    for update in range(1, 7):
        flat.parameters.copy_(before)
        before = vector.data.clone()
        flat.gradients.zero_()
        words = 0
        for _ in range(delay):
            assigned = next(batches)
            batch = collate(corpus, assigned.sentences)
            seed = batch_seed(config.training.seed, 0, assigned.index)
            words += add_gradient(flat.model, batch, config.training, seed).target_words
        vector.grad = flat.gradients / words
        adam.param_groups[0]["lr"] = learning_rate_at(update, words, config.schedule)
        adam.step()
    assert torch.equal(final_state(toy_run)[0]["parameters"], vector.data)


def test_a_loop_over_the_models_own_parameters_agrees(toy_run):
    # with a usual epsilon Adam makes whole steps of gradients that are only rounding errors
    config = toy_config(optimizer__clip_norm=None, optimizer__epsilon=1e-4, model__dropout=0.0)
    ours = OneWorker(toy_run, config)
    model = toy_model(config)
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-4)
    corpus = ParallelShards.open(toy_run.data / "train")
    batches = assigned_batches(corpus, config)
    for update in range(1, 6):
        batch = collate(corpus, next(batches).sentences)
        logits = model.logits(model(batch.source, batch.source_mask, batch.target_input))
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.target.flatten(), ignore_index=0, label_smoothing=0.1
        )
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = learning_rate_at(update, 1, config.schedule)
        adam.step()
        ours.push()
    expected = FlatModel(model).parameters
    assert torch.allclose(ours.server.parameters, expected, atol=1e-6, rtol=0.0)


def test_zero_local_batches_are_local_optimizers_off(toy_run):
    off = OneWorker(toy_run, toy_config(asynchronous__optimizer_delay=2))
    config = toy_config(asynchronous__optimizer_delay=2, asynchronous__local_optimizer_batches=4)
    exhausted = OneWorker(toy_run, config)
    exhausted.worker.batches = 4
    on = OneWorker(toy_run, config)
    for _ in range(3):
        for each in (off, exhausted, on):
            each.push()
    assert torch.equal(off.server.parameters, exhausted.server.parameters)
    assert not torch.equal(off.server.parameters, on.server.parameters), "or nothing was tested"


def test_local_steps_move_the_replica_and_never_a_shard(toy_run):
    config = toy_config(
        asynchronous__optimizer_delay=3, asynchronous__local_optimizer_batches="always"
    )
    one = OneWorker(toy_run, config)
    before = {name: vector.clone() for name, vector in one.server.vectors.items()}
    one.worker.compute([next(one.batches) for _ in range(3)])
    assert not torch.equal(one.flat.parameters, one.server.parameters)
    for name, vector in one.server.vectors.items():
        assert torch.equal(vector, before[name]), name


def test_a_push_after_local_steps_is_the_sum_of_the_gradients_on_the_way(toy_run):
    """Recomputed by hand: the local Adam as torch's, the gradients added up beside it."""
    config = toy_config(
        asynchronous__optimizer_delay=3,
        asynchronous__local_optimizer_batches="always",
        optimizer__clip_norm=None,
    )
    one = OneWorker(toy_run, config)
    flat = FlatModel(toy_model(config))
    flat.model.train()
    vector = nn.Parameter(flat.parameters)
    adam = torch.optim.Adam([vector], lr=0.0, betas=(0.93, 0.993), eps=1e-9, fused=True)
    total = torch.zeros_like(flat.gradients)
    window = [next(one.batches) for _ in range(3)]
    corpus = ParallelShards.open(toy_run.data / "train")
    for assigned in window:
        batch = collate(corpus, assigned.sentences)
        torch.manual_seed(batch_seed(config.training.seed, 0, assigned.index))
        flat.gradients.zero_()
        outputs = flat.model(batch.source, batch.source_mask, batch.target_input)
        loss, _ = loss_sums(flat.model, outputs, batch.target, batch.real_targets, 0.1)
        loss.backward()
        total += flat.gradients
        vector.grad = flat.gradients / batch.target_words
        adam.param_groups[0]["lr"] = learning_rate_at(1, batch.target_words, config.schedule)
        adam.step()
    one.worker.compute(window)
    assert torch.equal(one.flat.gradients, total)
    assert torch.equal(one.flat.parameters, vector.data)


@pytest.mark.parametrize("num_pushes", [2, 3])
def test_a_gradient_buffer_is_a_delay_bit_for_bit(toy_run, num_pushes):
    """Of one worker, whose parameters do not change while the buffer fills."""
    common = {"optimizer__clip_norm": None}
    delayed = OneWorker(toy_run, toy_config(asynchronous__optimizer_delay=num_pushes, **common))
    buffered = OneWorker(
        toy_run,
        toy_config(asynchronous__rule="buffer", asynchronous__buffer_pushes=num_pushes, **common),
    )
    for _ in range(4):
        delayed.push()
        for _ in range(num_pushes):
            buffered.push()
        assert torch.equal(delayed.server.parameters, buffered.server.parameters)
        assert delayed.server.versions == buffered.server.versions


def test_a_delta_is_the_way_of_the_local_steps_times_the_words(toy_run):
    options = {
        "asynchronous__optimizer_delay": 3,
        "asynchronous__local_optimizer_batches": "always",
        "asynchronous__local_learning_rate": 0.02,
    }
    gradient = OneWorker(toy_run, toy_config(**options))
    delta = OneWorker(toy_run, toy_config(asynchronous__local_push="delta", **options))
    start = delta.flat.parameters.clone()
    pushes = [
        each.worker.compute([next(each.batches) for _ in range(3)]).push
        for each in (gradient, delta)
    ]
    assert torch.equal(gradient.flat.parameters, delta.flat.parameters), "the same local steps"
    way = (start - delta.flat.parameters) * pushes[1].target_words
    assert torch.equal(delta.flat.gradients, way)
    assert pushes[1].gradient_norm == pytest.approx(float((way / pushes[1].target_words).norm()))
    assert float((start - delta.flat.parameters).abs().max()) == pytest.approx(0.06, rel=0.05)


def test_a_delta_of_steps_of_which_one_was_spoilt_is_not_finite(toy_run):
    options = {
        "asynchronous__optimizer_delay": 2,
        "asynchronous__local_optimizer_batches": "always",
        "asynchronous__local_push": "delta",
    }
    flat = OneWorker(toy_run, toy_config(**options)).flat
    local = LocalOptimizer(flat, BatchGradient(flat), toy_config(**options))
    for spoilt in (True, False):
        local.begin_window()
        for value in (1.0, float("inf") if spoilt else 2.0):
            local.gradient.fill_(value)
            local.update(10, 1, 0.0)
        local.end_window(20)
        assert math.isfinite(flat.gradients.norm()) != spoilt
