"""The fused loss against PyTorch's own cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nmtasync.config.schema import ModelConfig
from nmtasync.models import loss
from nmtasync.models.build import build_model
from nmtasync.models.loss import loss_sums, smoothed_cross_entropy


def inputs(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [
        (scale * torch.randn(11, 6, dtype=dtype)).requires_grad_(),
        torch.randn(17, 6, dtype=dtype, requires_grad=True),
        torch.randn(17, dtype=dtype, requires_grad=True),
    ]


TARGET = torch.tensor([4, 16, 3, 5, 5, 1, 9, 12, 3, 8, 2])


@pytest.mark.parametrize("rows_of_a_chunk", [1, 4, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradients_are_pytorch_s(
    rows_of_a_chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss._CHUNK_BYTES, "cpu", rows_of_a_chunk * 17 * 8)
    parts = inputs()
    smoothed, cross_entropy = smoothed_cross_entropy(*parts, TARGET, smoothing)
    logits = F.linear(*parts)
    expected = F.cross_entropy(logits, TARGET, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(smoothed, expected)
    torch.testing.assert_close(cross_entropy, F.cross_entropy(logits, TARGET, reduction="sum"))
    assert not cross_entropy.requires_grad
    gradients = torch.autograd.grad(3.0 * smoothed, parts)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(3.0 * expected, parts), strict=True
    ):
        torch.testing.assert_close(gradient, reference)


def test_gradients_are_finite_differences() -> None:
    def smoothed(*parts: torch.Tensor) -> torch.Tensor:
        return smoothed_cross_entropy(*parts, TARGET, 0.2)[0]

    assert torch.autograd.gradcheck(smoothed, inputs())


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    parts = inputs(torch.float32, scale=1e4)
    smoothed, _ = smoothed_cross_entropy(*parts, TARGET, 0.1)
    logits = F.linear(*parts)
    expected = F.cross_entropy(logits, TARGET, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(smoothed, expected)
    smoothed.backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in parts)


def test_without_a_gradient_the_value_is_the_same() -> None:
    with_gradient = smoothed_cross_entropy(*inputs(), TARGET, 0.1)
    with torch.no_grad():
        without = smoothed_cross_entropy(*inputs(), TARGET, 0.1)
    assert without[0].requires_grad is False
    assert torch.equal(without[0], with_gradient[0].detach())


def test_sums_cover_real_target_words_only() -> None:
    """A batch's sums are those of its sentences, however much padding stands between them."""
    torch.manual_seed(1)
    config = ModelConfig(dimension=8, encoder_layers=1, decoder_layers=1, heads=1)
    model = build_model(config, 17, 17).eval()
    source = torch.tensor([[4, 5, 3], [6, 3, 0]])
    target_input = torch.tensor([[2, 7, 8, 9], [2, 5, 0, 0]])
    target = torch.tensor([[7, 8, 9, 3], [5, 3, 0, 0]])
    together = loss_sums(model, source, source != 0, target_input, target, 0.1)
    first = loss_sums(model, source[:1], source[:1] != 0, target_input[:1], target[:1], 0.1)
    second = loss_sums(
        model, source[1:, :2], source[1:, :2] != 0, target_input[1:, :2], target[1:, :2], 0.1
    )
    for whole, *parts in zip(together, first, second, strict=True):
        torch.testing.assert_close(whole, parts[0] + parts[1])
    logits = model.logits(model(source, source != 0, target_input))
    expected = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=0, reduction="sum"
    )
    torch.testing.assert_close(together[1], expected)
