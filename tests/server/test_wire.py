"""The wire: what travels is what was rounded, and the shards are not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.server import sparse
from nmtasync.server.wire import Wire
from tests.support.one_worker import OneWorker
from tests.support.servers import SIZE, Exchanges, make_server
from tests.support.toy import toy_config

PRECISIONS = ("fp32", "bf16", "fp16")


@given(
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50),
    precision=st.sampled_from(PRECISIONS),
)
def test_what_is_unpacked_is_what_is_rounded_to_the_bit(values, precision):
    wire, vector = Wire(precision), torch.tensor(values)
    rounded, arrived = vector.clone(), torch.full_like(vector, 7.0)
    wire.round_(rounded)
    packed = wire.pack(vector)
    assert packed.dtype == torch.uint8 and packed.numel() == wire.num_bytes(len(values))
    wire.unpack(packed, arrived)
    assert torch.equal(arrived.view(torch.int32), rounded.view(torch.int32))
    assert torch.equal(rounded, vector.to(wire.dtype).float())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [1, (1 << 16) - 1, 1 << 16, (1 << 17) + 5])
def test_rounding_does_not_depend_on_blocks(size, precision):
    vector = torch.randn(size, generator=torch.Generator().manual_seed(1))
    rounded, wire = vector.clone(), Wire(precision)
    wire.round_(rounded)
    assert torch.equal(rounded, vector.to(wire.dtype).float())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kept", [1, 7, 20])
def test_a_sparse_payload_arrives_as_it_was_sent(precision, kept):
    wire, dense = Wire(precision), torch.zeros(64)
    dense[torch.randperm(64, generator=torch.Generator().manual_seed(kept))[:kept]] = 1.5
    payload, arrived = dense.clone(), torch.full((64,), 7.0)
    count = sparse.pack(payload, wire)
    assert count == kept
    packed = wire.pack(payload, count)
    assert packed.numel() == wire.num_bytes(64, count) == kept * (wire.dtype.itemsize + 4)
    wire.unpack(packed, arrived, count)
    assert torch.equal(sparse.unpack(arrived, count, torch.empty(64)), dense)


@pytest.mark.parametrize("devices", [None, ["cpu", "cpu"]])
def test_the_shards_are_not_rounded_and_what_is_fetched_is(devices):
    server = make_server(1, 2, devices, asynchronous__exchange_precision="bf16")
    exact = make_server(1, 2, devices)
    landing, other = torch.zeros(SIZE), torch.zeros(SIZE)
    for worker, place in ((server, landing), (exact, other)):
        worker.fetch(place, 0)
    assert torch.equal(landing, other.bfloat16().float()) and not torch.equal(landing, other)
    exchanges = Exchanges(), Exchanges()
    replies = [one.make(to, range(6)) for one, to in zip(exchanges, (server, exact), strict=True)]
    assert replies[0] == replies[1]
    assert torch.equal(server.parameters, exact.parameters), "the master copy is exact"
    assert torch.equal(exchanges[0].landing, server.parameters.bfloat16().float())


def test_what_computes_in_bf16_loses_nothing_by_parameters_in_bf16(toy_run):
    found = []
    for precision in ("fp32", "bf16"):
        config = toy_config(training__precision="bf16", asynchronous__exchange_precision=precision)
        one = OneWorker(toy_run, config)
        one.worker.feedback = None  # the push is exact in both
        for _ in range(3):
            one.push()
        found.append(one.server.parameters.clone())
    assert torch.equal(*found)


def test_bytes_are_counted_by_the_type():
    sizes = [Wire(precision).num_bytes(100) for precision in PRECISIONS]
    assert sizes == [400, 200, 200]
    assert [Wire(precision).num_bytes(100, 9) for precision in PRECISIONS] == [72, 54, 54]
    assert [Wire("bf16").shortest(100, kept) for kept in (9, 33, 34)] == [54, 198, 200]
