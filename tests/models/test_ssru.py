"""The recurrence of the SSRU, computed in two ways, against its equations."""

from __future__ import annotations

import pytest
import torch

from nmtasync.models.ssru import SSRU, recur_by_doubling, recur_by_steps


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(length)
    return torch.rand(2, length, 3, dtype=torch.float64), torch.randn(2, length, 3).double()


def test_outputs_are_those_of_the_equations() -> None:
    x = inputs(6)[1]
    layer = SSRU(3).double()
    with torch.no_grad():
        layer.inputs.bias.normal_()
    gate_weight, value_weight = layer.inputs.weight.chunk(2)
    gate_bias, value_bias = layer.inputs.bias.chunk(2)
    cell, past = torch.zeros(2, 3, dtype=torch.float64), layer.begin()
    whole = layer(x)
    for position in range(6):
        forget = torch.sigmoid(x[:, position] @ gate_weight.T + gate_bias)
        value = x[:, position] @ value_weight.T + value_bias
        cell = forget * cell + (1 - forget) * value
        torch.testing.assert_close(whole[:, position], cell.clamp(min=0))
        stepped = layer.step(x[:, position, None], past)
        torch.testing.assert_close(stepped[:, 0], cell.clamp(min=0))
        assert past.cells is not None and past.cells.shape == (2, 1, 3), "it remembers one vector"


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9])
def test_doubling_equals_steps(length: int, backwards: bool) -> None:
    decay, x = inputs(length)
    torch.testing.assert_close(
        recur_by_doubling(decay, x, backwards=backwards),
        recur_by_steps(decay, x, backwards=backwards),
    )


@pytest.mark.parametrize("way", [recur_by_steps, recur_by_doubling])
@pytest.mark.parametrize("length", [1, 5])
def test_gradients_are_finite_differences(length, way, monkeypatch) -> None:
    monkeypatch.setattr("nmtasync.models.ssru.recur_by_steps", way)  # what a CPU takes
    torch.manual_seed(1)
    layer = SSRU(3).double()
    x = inputs(length)[1].requires_grad_()
    assert torch.autograd.gradcheck(layer, x)


def test_products_of_vanishing_gates_stay_finite() -> None:
    """Where another way divides by them, or takes their logarithm."""
    layer = SSRU(3)
    with torch.no_grad():
        layer.inputs.bias[:3] = -200.0
    x = torch.randn(2, 50, 3, requires_grad=True)
    outputs = layer(x)
    outputs.sum().backward()
    assert outputs.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
