"""Gradient dropping: the largest are pushed, nothing is lost, sparse is dense."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.config.schema import AsynchronousConfig
from nmtasync.server.sparse import pack, unpack
from nmtasync.worker.gradient_dropping import GradientDropper, drop_rate_at, num_kept
from tests.support.one_worker import OneWorker
from tests.support.toy import toy_config


def test_the_largest_of_gradient_and_residual_are_pushed_and_nothing_is_lost():
    generator = torch.Generator().manual_seed(3)
    dropper = GradientDropper(1000, torch.device("cpu"))
    seen, pushed_total = torch.zeros(1000), torch.zeros(1000)
    for _ in range(6):
        gradient = torch.randn(1000, generator=generator)
        seen += gradient
        expected = seen - pushed_total
        dropper.split(gradient, 0.99)
        assert int((gradient != 0).sum()) == 10
        smallest_pushed = gradient[gradient != 0].abs().min()
        assert smallest_pushed >= dropper.residual.abs().max()
        assert torch.allclose(gradient[gradient != 0], expected[gradient != 0], atol=1e-5)
        pushed_total += gradient
    assert torch.allclose(pushed_total + dropper.residual, seen, atol=1e-5)


@given(size=st.integers(1, 200), data=st.data())
def test_a_packed_payload_is_the_dense_one(size, data):
    places = data.draw(st.sets(st.integers(0, size - 1)))
    dense = torch.zeros(size)
    for place in places:
        dense[place] = data.draw(st.floats(0.5, 2.0**40, width=32))
    payload = dense.clone()
    count = pack(payload)
    if 2 * int((dense != 0).sum()) > size:
        assert count is None and torch.equal(payload, dense)
    else:
        assert count is not None
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
