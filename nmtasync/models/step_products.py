"""Products with one matrix at each step of a recurrence, with one product for its gradient.

Autograd by itself would compute a gradient of the matrix's size at each of the T steps and add
it to those before, in 16 bits with a rounding each time.
Shapes: B sentences, T steps, K width of what is multiplied, N width of the product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtasync.models.projection import EPSILON


class StepProduct:
    """Computes x_t @ matrix, step after step.

    Autograd is told that the matrix is a constant. To the product of step t a row of zeros is
    added, row t of a tensor that `_SharedZeros` computes "from the matrix" before the first step.
    Its backward pass runs after those of all steps; the gradient of the zeros is that of all
    products, and one product with all inputs makes the matrix's gradient of it.

    Args:
        matrix: One for all sentences [K, N], or one for each [B, K, N].
        num_steps: T.
        batch_size: B.
        bias: What is added to each product [N]; None for nothing.
    """

    def __init__(
        self, matrix: Tensor, num_steps: int, batch_size: int, bias: Tensor | None = None
    ) -> None:
        self.matrix = matrix.detach()
        self.inputs: list[Tensor] = []
        apply: Any = _SharedZeros.apply  # torch has no types for it
        added: Tensor = apply(matrix, self.inputs, (num_steps, batch_size, matrix.shape[-1]))
        self.added = (added if bias is None else added + bias).unbind(0)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply what the next step has [B, 1, K] to [B, 1, N]."""
        added = self.added[len(self.inputs)]
        self.inputs.append(x.detach().squeeze(1))
        if self.matrix.dim() == 3:
            return torch.baddbmm(added.unsqueeze(1), x, self.matrix)
        return torch.addmm(added, x.squeeze(1), self.matrix).unsqueeze(1)


class StepProjection:
    """What a `Projection` computes, step after step.

    Args:
        parts: Weight [N, K], bias and gain [N], as `Projection.parts` returns them.
        mask: Of the dropout of what is multiplied, the same at all steps [B, 1, K]; None drops
            nothing.
        num_steps: T.
        batch_size: B.
    """

    def __init__(
        self,
        parts: tuple[Tensor, Tensor, Tensor | None],
        mask: Tensor | None,
        num_steps: int,
        batch_size: int,
    ) -> None:
        weight, self.bias, self.gain = parts
        self.mask = mask
        added = self.bias if self.gain is None else None
        self.product = StepProduct(weight.t(), num_steps, batch_size, added)

    def __call__(self, x: Tensor) -> Tensor:
        """Project what the next step has [B, 1, K] to [B, 1, N]."""
        product = self.product(x if self.mask is None else x * self.mask)
        if self.gain is None:
            return product
        return F.layer_norm(product, self.gain.shape, self.gain, self.bias, EPSILON)


class _SharedZeros(torch.autograd.Function):
    """Zeros that stand for all products with a matrix."""

    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, inputs: list[Tensor], shape: tuple[int, int, int]
    ) -> Tensor:
        """Return zeros [T, B, N]; the steps fill `inputs` with T times [B, K]."""
        ctx.inputs, ctx.batched = inputs, matrix.dim() == 3
        return matrix.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, grad_products: Tensor) -> tuple[Tensor, None, None]:
        """Multiply all steps' inputs by the gradients of their products [T, B, N]."""
        x = torch.stack(ctx.inputs)
        if ctx.batched:
            return x.permute(1, 2, 0) @ grad_products.transpose(0, 1), None, None
        # Transposed so that the gradient of `StepProjection.weight` is laid out as the weight is.
        return (grad_products.flatten(0, 1).t() @ x.flatten(0, 1)).t(), None, None
