"""What pushes leave out, by dropping or rounding: nothing is lost, sparse is dense."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.config.schema import AsynchronousConfig
from nmtasync.server.sparse import pack, unpack
from nmtasync.server.wire import Wire
from nmtasync.worker.error_feedback import ErrorFeedback
from nmtasync.worker.gradient_dropping import drop_rate_at, num_kept
from tests.support.one_worker import OneWorker
from tests.support.toy import toy_config

CPU = torch.device("cpu")
ROUNDED = ("bf16", "fp16")


def test_the_largest_of_gradient_and_residual_are_pushed_and_nothing_is_lost():
    generator = torch.Generator().manual_seed(3)
    feedback = ErrorFeedback(1000, CPU, AsynchronousConfig(drop_rate=0.99))
    seen, pushed_total = torch.zeros(1000), torch.zeros(1000)
    for pushes in range(6):
        gradient = torch.randn(1000, generator=generator)
        seen += gradient
        expected = seen - pushed_total
        feedback.split(gradient, pushes)
        assert int((gradient != 0).sum()) == 10
        smallest_pushed = gradient[gradient != 0].abs().min()
        assert smallest_pushed >= feedback.residual.abs().max()
        assert torch.allclose(gradient[gradient != 0], expected[gradient != 0], atol=1e-5)
        pushed_total += gradient
    assert torch.allclose(pushed_total + feedback.residual, seen, atol=1e-5)


@pytest.mark.parametrize("drop_rate", [None, 0.9])
@pytest.mark.parametrize("precision", ROUNDED)
def test_of_what_is_rounded_nothing_is_lost_over_time(precision, drop_rate):
    """Elements of 1e-12, which fp16 does not have, to 1e2; plain rounding would lose a share."""
    generator = torch.Generator().manual_seed(4)
    config = AsynchronousConfig(exchange_precision=precision, drop_rate=drop_rate)
    feedback, wire = ErrorFeedback(1000, CPU, config), Wire(precision)
    scale = torch.logspace(-12, 2, 1000)
    seen, pushed, plainly = (torch.zeros(1000, dtype=torch.float64) for _ in range(3))
    for pushes in range(200):
        gradient = scale * (1 + 0.3 * torch.randn(1000, generator=generator))
        seen += gradient
        rounded = gradient.clone()
        wire.round_(rounded)
        plainly += rounded
        feedback.split(gradient, pushes)
        assert torch.equal(gradient, gradient.to(wire.dtype).float())
        pushed += gradient
    found = pushed + feedback.residual
    assert torch.allclose(found, seen, rtol=1e-6, atol=0.0)
    assert not torch.allclose(plainly, seen, rtol=1e-6, atol=0.0), "or this tests nothing"


@pytest.mark.parametrize(("precision", "huge"), [("fp16", 3e5), ("bf16", 3.4e38)])
def test_what_a_type_cannot_hold_is_pushed_in_parts(precision, huge):
    largest = torch.finfo(Wire(precision).dtype).max
    feedback = ErrorFeedback(2, CPU, AsynchronousConfig(exchange_precision=precision))
    pushed = torch.zeros(2, dtype=torch.float64)
    for pushes in range(math.ceil(huge / largest)):
        gradient = torch.tensor([huge, -huge]) if pushes == 0 else torch.zeros(2)
        feedback.split(gradient, pushes)
        assert gradient.abs().max() <= largest
        pushed += gradient
    wanted = torch.tensor([huge, -huge]).double()
    assert torch.allclose(pushed, wanted, rtol=2**-8, atol=0.0)


@given(size=st.integers(1, 200), precision=st.sampled_from(["fp32", *ROUNDED]), data=st.data())
def test_a_packed_payload_is_the_dense_one(size, precision, data):
    places = data.draw(st.sets(st.integers(0, size - 1)))
    dense = torch.zeros(size)
    for place in places:
        dense[place] = data.draw(st.floats(0.5, 2.0**10, width=16))
    payload, wire = dense.clone(), Wire(precision)
    count = pack(payload, wire)
    number = int((dense != 0).sum())
    if number * (wire.dtype.itemsize + 4) > size * wire.dtype.itemsize:
        assert count is None and torch.equal(payload, dense)
    else:
        assert count == number
        assert torch.equal(unpack(payload, count, torch.full((size,), 7.0)), dense)


def test_the_rate_rises():
    config = AsynchronousConfig(drop_rate=0.99, drop_warmup_pushes=10)
    rates = [drop_rate_at(pushes, config) for pushes in range(12)]
    assert rates[0] == 0.0 and rates[5] == 0.495 and rates[10:] == [0.99, 0.99]
    assert num_kept(1000, 0.0) == 1000 and num_kept(1000, 0.99) == 10 and num_kept(5, 0.999) == 1


def test_a_rate_of_zero_is_no_dropping_bit_for_bit(toy_run):
    plain = OneWorker(toy_run, toy_config())
    dropping = OneWorker(toy_run, toy_config(asynchronous__drop_rate=0.0))
    for _ in range(3):
        plain.push()
        dropping.push()
    assert torch.equal(plain.server.parameters, dropping.server.parameters)


def test_a_worker_pushes_a_sparse_gradient_and_keeps_the_rest_for_itself(toy_run):
    one = OneWorker(
        toy_run,
        toy_config(asynchronous__drop_rate=0.9, asynchronous__drop_local_gradient=True),
    )
    one.push()
    push = one.worker.compute([next(one.batches)]).push
    kept = num_kept(one.flat.size, 0.9)
    assert push.num_values is not None and 0.9 * kept < push.num_values <= kept
    moved = (one.flat.parameters != one.server.parameters).float().mean()
    assert moved > 0.5, "the replica has more than the shards"


def test_a_window_that_is_not_finite_leaves_the_residual_alone(toy_run):
    one = OneWorker(toy_run, toy_config(asynchronous__exchange_precision="bf16"))
    one.push()
    kept = one.worker.feedback.residual.clone()
    assert kept.any()
    one.flat.parameters[0] = math.nan
    assert not math.isfinite(one.worker.compute([next(one.batches)]).push.gradient_norm)
    assert torch.equal(one.worker.feedback.residual, kept)
