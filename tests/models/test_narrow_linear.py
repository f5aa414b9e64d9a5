"""Narrow linear layers against integer arithmetic and against each row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nmtasync.models.narrow_linear import (
    BFloat16Linear,
    Int8Linear,
    NarrowLinear,
    padded_rows,
)
from tests.support.int8 import needs_int8

KINDS = [pytest.param(Int8Linear, marks=needs_int8), BFloat16Linear]


def make(kind: type[NarrowLinear], bias: bool = True) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(19, 40, generator=generator)
    weight[3] *= 50.0
    weight[5] = 0.0
    offsets = torch.randn(19, generator=generator)
    x = torch.randn(7, 40, generator=generator)
    x[2] *= 1000.0
    x[4] = 0.0
    return kind(weight, offsets if bias else None), weight, offsets, x


@needs_int8
@pytest.mark.parametrize("bias", [True, False])
def test_int8_is_what_integers_give(bias):
    layer, weight, offsets, x = make(Int8Linear, bias)
    weights, inputs = weight.numpy().astype(np.float64), x.numpy().astype(np.float64)
    of_outputs = np.abs(weights).max(1, keepdims=True) / 127
    of_rows = np.abs(inputs).max(1, keepdims=True) / 127
    whole_weights = np.rint(weights / np.where(of_outputs > 0, of_outputs, 1))
    whole_inputs = np.rint(inputs / np.where(of_rows > 0, of_rows, 1))
    expected = whole_inputs @ whole_weights.T * of_rows * of_outputs.T
    if bias:
        expected += offsets.numpy()
    torch.testing.assert_close(layer(x).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_bf16_is_a_product_of_rounded_numbers():
    layer, weight, offsets, x = make(BFloat16Linear)
    exact = x.bfloat16().double() @ weight.bfloat16().double().t() + offsets.bfloat16().double()
    sizes = x.double().abs() @ weight.double().abs().t() + offsets.abs()
    assert ((layer(x) - exact).abs() <= 2.0**-7 * sizes).all()
    assert (layer(x) - exact).abs().max() > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gives_what_it_gives_alone(kind):
    layer, _, offsets, x = make(kind)
    together = layer(x)
    assert together.dtype == torch.float32
    for row, given in zip(x, together, strict=True):
        assert torch.equal(layer(row[None])[0], given)
        assert torch.equal(layer(row.view(1, 1, -1)).flatten(), given), "of any shape"
    assert torch.allclose(together[4], offsets, rtol=2**-7), "nothing in, the bias out"
    many = layer(x[0].expand(1000, -1))
    assert torch.equal(many, together[:1].expand(1000, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_in_its_row(kind):
    layer, _, _, x = make(kind)
    before = layer(x)
    x[1, 3] = float("nan")
    after = layer(x)
    assert after[1].isnan().all()
    others = torch.arange(len(x)) != 1
    assert torch.equal(after[others], before[others])


def test_rows_are_added_until_few_numbers_are_left():
    numbers = [padded_rows(number) for number in range(1, 5000)]
    for number, padded in enumerate(numbers, start=1):
        assert number <= padded < number + max(32, number / 7)
    assert len(set(numbers)) < 60
