"""Linear layers whose weights have 8 or 16 bits, to translate with; they have no gradients.

They take and give float32; only their products are narrow, and sums within them are exact or
float32. What a row gives depends on no other row.
Shapes: R rows, K inputs, N outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LARGEST = 127
"""Weights and inputs are -127 to 127 times their scale."""

_SHIFT = 128
"""What is added to inputs: the kernel takes them without a sign, and subtracts it again."""

_FEWEST_ROWS = 32
_TINY = 1e-30


class NarrowLinear(nn.Module, ABC):
    """A linear layer that computes in a narrow type.

    oneDNN, which multiplies narrow types on CPUs, prepares itself anew for each number of rows,
    which takes longer than most products. So rows are added until there are few such numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Project a tensor [..., K] to [..., N], in float32."""
        rows = x.reshape(-1, x.shape[-1])
        return self.project(rows).view(*x.shape[:-1], -1)

    @abstractmethod
    def project(self, rows: Tensor) -> Tensor:
        """Project rows [R, K] to [R, N]."""


class BFloat16Linear(NarrowLinear):
    """A linear layer in bf16: 8 bits of precision, on GPUs and on CPUs with units for it.

    Args:
        weight: [N, K].
        bias: [N], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight.detach().bfloat16()
        self.bias = None if bias is None else bias.detach().bfloat16()

    def project(self, rows: Tensor) -> Tensor:
        """Project rows [R, K] to [R, N]."""
        padded = rows.new_zeros(padded_rows(len(rows)), rows.shape[1], dtype=torch.bfloat16)
        padded[: len(rows)] = rows
        return F.linear(padded, self.weight, self.bias)[: len(rows)].float()


class Int8Linear(NarrowLinear):
    """A linear layer whose weights and inputs are integers of 8 bits, on x86 CPUs.

    Each output has a scale of its weights, and each row one of its inputs, that of its largest.
    Products and their sums are exact. This is what Marian and CTranslate2 do, too.

    Args:
        weight: [N, K].
        bias: [N], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        weight = weight.detach()
        self.scales = weight.abs().amax(1).clamp_(min=_TINY) / _LARGEST
        narrow = (weight / self.scales[:, None]).round_().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(narrow, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)

    def project(self, rows: Tensor) -> Tensor:
        """Project rows [R, K] to [R, N]."""
        scales = rows.abs().amax(1, keepdim=True).clamp_(min=_TINY) / _LARGEST
        padded = torch.empty(padded_rows(len(rows)), rows.shape[1], dtype=torch.uint8)
        padded[: len(rows)] = (rows / scales).add_(_SHIFT + 0.5)  # cut to integers: rounded
        products = torch.ops.onednn.qlinear_pointwise(
            *(padded, 1.0, _SHIFT),
            *(self.packed, self.scales, self.zero_points, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )[: len(rows)]
        return torch.addcmul(self.bias, products, scales, out=products)


def padded_rows(number: int) -> int:
    """Compute how many rows to compute with: a few more, so that few numbers occur."""
    step = max(_FEWEST_ROWS, 1 << max(0, number.bit_length() - 4))
    return -(-number // step) * step


def computes_int8() -> bool:
    """Whether `Int8Linear` works on this machine, with this PyTorch, and its sums are exact.

    On CPUs without instructions for it, pairs of products may not fit 16 bits.
    """
    size = 64
    weight = torch.full((size, size), 1.0)
    try:
        computed = Int8Linear(weight, None)(torch.full((1, size), 1.0))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return torch.allclose(computed, torch.full((1, size), float(size)), rtol=1e-5)
