"""Dropout drops as often as it says and keeps the mean."""

from __future__ import annotations

import pytest
import torch

from nmtasync.models.dropout import Dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_and_scale(probability: float) -> None:
    torch.manual_seed(1)
    dropped = Dropout(probability)(torch.ones(999, 1001))
    scale = 1 / (1 - probability)
    assert dropped.unique().tolist() == pytest.approx([0.0, scale], rel=1e-3)
    share = float((dropped == 0).double().mean())
    assert share == pytest.approx(probability, abs=0.003)
    for dimension in (0, 1):  # no row and no column is treated otherwise
        spread = float((dropped == 0).double().mean(dimension).std())
        assert spread == pytest.approx((probability * (1 - probability) / 1000) ** 0.5, rel=0.1)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4)])
def test_any_shape_and_its_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    dropped = Dropout(0.5)(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, dropped)


@pytest.mark.parametrize("shared", [1, -1], ids=["variational", "whole pieces"])
def test_shared_decisions(shared: int) -> None:
    torch.manual_seed(1)
    dropped = Dropout(0.5, shared)(torch.ones(60, 70, 80))
    decisions = dropped.narrow(shared, 0, 1)
    assert torch.equal(dropped, decisions.expand_as(dropped))
    assert decisions.unique().tolist() == pytest.approx([0.0, 2.0])
    for dimension in (0, 1 if shared == -1 else 2):  # every other dimension has its own
        assert float(decisions.mean(dimension).min()) > 0.2


def test_off_in_evaluation_and_at_zero() -> None:
    x = torch.randn(5, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_global_seed_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.3)(torch.ones(100))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
