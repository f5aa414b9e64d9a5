"""The fused loss against PyTorch's own cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

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

    def sums(rows: slice, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        part, expected = source[rows, :length], target[rows]
        outputs = model(part, part != 0, target_input[rows])
        real_targets = expected.flatten().nonzero().squeeze(1)
        return loss_sums(model, outputs, expected, real_targets, 0.1)

    together = sums(slice(0, 2), 3)
    first, second = sums(slice(0, 1), 3), sums(slice(1, 2), 2)
    for whole, *parts in zip(together, first, second, strict=True):
        torch.testing.assert_close(whole, parts[0] + parts[1])
    logits = model.logits(model(source, source != 0, target_input))
    expected = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=0, reduction="sum"
    )
    torch.testing.assert_close(together[1], expected)


class Allocations(TorchDispatchMode):
    """Keeps every result alive, so that each storage made is counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[torch.Tensor] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        parts = result if isinstance(result, tuple | list) else (result,)
        self.results += [part for part in parts if isinstance(part, torch.Tensor)]
        return result

    def largest(self, dtype: torch.dtype) -> list[int]:
        """Elements of each storage of this type, the largest first."""
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.of(dtype)
        }
        return sorted((size // dtype.itemsize for size in storages.values()), reverse=True)

    def of(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [result for result in self.results if result.dtype == dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [1, 4])
def test_logits_are_held_once_in_float32_and_a_chunk_at_a_time(dtype, chunks, monkeypatch):
    words, vocabulary, dimension = 64, 1000, 6
    chunk = words // chunks * vocabulary
    monkeypatch.setitem(loss._CHUNK_BYTES, "cpu", chunk * 4)
    outputs = torch.randn(words, dimension).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, dimension).to(dtype).requires_grad_()
    bias = torch.randn(vocabulary).to(dtype).requires_grad_()
    target = torch.randint(vocabulary, (words,))
    with Allocations() as allocations:
        smoothed_cross_entropy(outputs, weight, bias, target, 0.1)[0].backward()
    wide = allocations.largest(torch.float32)
    assert wide[:chunks] == [chunk] * chunks, "each chunk has logits, and nothing else so large"
    assert wide[chunks] <= vocabulary * dimension < chunk
    narrow = allocations.largest(torch.bfloat16)
    assert sum(size >= chunk for size in narrow) == (0 if dtype == torch.float32 else 2 * chunks)


def test_16_bits_lose_no_more_than_the_rounding_of_logits() -> None:
    """The statistics are in float32: against a naive loss whose logits alone are rounded."""
    torch.manual_seed(2)
    outputs, weight = torch.randn(400, 64), torch.randn(300, 64) / 8
    target = torch.randint(300, (400,))
    narrow = [part.bfloat16().requires_grad_() for part in (outputs, weight, torch.zeros(300))]
    smoothed, cross_entropy = smoothed_cross_entropy(*narrow, target, 0.1)
    assert smoothed.dtype == cross_entropy.dtype == torch.float32
    smoothed.backward()
    wide = [part.detach().float().requires_grad_() for part in narrow]
    logits = F.linear(*wide)
    rounded = logits + (logits.bfloat16().float() - logits).detach()
    expected = F.cross_entropy(rounded, target, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(smoothed, expected, rtol=1e-5, atol=0)
    expected.backward()
    for part, reference in zip(narrow, wide, strict=True):
        assert part.grad is not None and reference.grad is not None
        error = (part.grad.float() - reference.grad).norm() / reference.grad.norm()
        assert error < 4e-3, "about the rounding of the result, 2 ** -9"
