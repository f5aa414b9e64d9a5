"""The simpler simple recurrent unit, which takes the place of a decoder's self-attention.

Its step costs the same however long the target is, and it remembers one vector. That makes it
the decoder of fast students.
Source: Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine
Translation".
Shapes: B sentences, T target pieces, D dimension; in beam search N sentences with K hypotheses
each.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.attention import initialise
from nmtasync.models.past import Past, RecurrentPast


class SSRU(nn.Module):
    """A recurrence whose every product is computed for all positions at once.

    Forget gates f = sigmoid(W x + b) mix the cells c = f * c_before + (1 - f) * (V x + d), and
    the output is relu(c). The paper has no bias d.

    Args:
        dimension: D.
        bias: Whether there is a bias d.
    """

    def __init__(self, dimension: int, *, bias: bool = True) -> None:
        super().__init__()
        self.inputs = nn.Linear(dimension, 2 * dimension, bias=bias)
        self.gate_bias = None if bias else nn.Parameter(torch.zeros(dimension))
        initialise(self.inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Run over whole sequences [B, T, D]; returns the outputs [B, T, D]."""
        apply: Any = _LinearRecurrence.apply  # torch has no types for it
        return F.relu(apply(*self._gate(x))).to(x.dtype)

    def begin(self) -> RecurrentPast:
        """What is remembered before the first piece."""
        return RecurrentPast()

    def step(self, x: Tensor, past: Past) -> Tensor:
        """Compute one position.

        Args:
            x: The new position of each hypothesis [N, K, D].
            past: The cells before it, which become those after it.

        Returns:
            The outputs [N, K, D].
        """
        assert isinstance(past, RecurrentPast)
        forget, cells = self._gate(x)
        if past.cells is not None:
            cells = torch.addcmul(cells, forget, past.cells)
        past.cells = cells
        return F.relu(cells).to(x.dtype)

    def _gate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the forget gates, and what enters the cells, in single precision at least."""
        projected = self.inputs(x)
        precise = torch.promote_types(projected.dtype, torch.float32)
        gates, candidates = projected.to(precise).chunk(2, dim=-1)
        if self.gate_bias is not None:
            gates = gates + self.gate_bias
        return gates.sigmoid(), (-gates).sigmoid() * candidates


class _LinearRecurrence(torch.autograd.Function):
    """States y_t = a_t * y_before + x_t of all positions.

    With dy the gradient by y as others use it, the gradients are dx_t = dy_t + a_after * dx_after,
    the same recurrence from the end, and da_t = dx_t * y_before.
    """

    @staticmethod
    def forward(ctx: Any, decay: Tensor, x: Tensor) -> Tensor:
        """Run from the first position to the last: a and x [B, T, D] to y [B, T, D]."""
        y = _recur(decay, x, backwards=False)
        ctx.save_for_backward(decay, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        """Run from the last position to the first."""
        decay, y = ctx.saved_tensors
        grad_x = _recur(decay, grad_y, backwards=True)
        grad_decay = torch.zeros_like(decay)
        torch.mul(grad_x[:, 1:], y[:, :-1], out=grad_decay[:, 1:])
        return grad_decay, grad_x


def _recur(decay: Tensor, x: Tensor, *, backwards: bool) -> Tensor:
    """Choose how: steps touch each element once; doubling launches few kernels."""
    way = recur_by_steps if x.device.type == "cpu" else recur_by_doubling
    return way(decay, x, backwards=backwards)


def recur_by_steps(decay: Tensor, x: Tensor, *, backwards: bool) -> Tensor:
    """Compute the states one position after the other.

    Args:
        decay: a [B, T, D].
        x: What enters [B, T, D].
        backwards: Compute y_t = a_after * y_after + x_t, from the last position to the first,
            instead of y_t = a_t * y_before + x_t.

    Returns:
        The states y [B, T, D].
    """
    length = x.shape[1]
    order = range(length - 1, -1, -1) if backwards else range(length)
    y = torch.empty_like(x)
    y[:, order[0]] = x[:, order[0]]
    for last, now in itertools.pairwise(order):
        torch.addcmul(x[:, now], decay[:, max(last, now)], y[:, last], out=y[:, now])
    return y


def recur_by_doubling(decay: Tensor, x: Tensor, *, backwards: bool) -> Tensor:
    """Compute the states in log2(T) turns; arguments as in `recur_by_steps`.

    After a turn y_t knows of the last 1, 2, 4, ... inputs, and a_t is the product of as many
    decays, so that the next turn can join two such stretches.
    Source: Hillis and Steele 1986, "Data Parallel Algorithms", partial sums.
    """
    if backwards:
        reversed_decay = decay.roll(-1, dims=1).flip(1)
        return recur_by_doubling(reversed_decay, x.flip(1), backwards=False).flip(1)
    length = x.shape[1]
    reach = 1
    while reach < length:
        joined = torch.addcmul(x[:, reach:], decay[:, reach:], x[:, :-reach])
        x = torch.cat((x[:, :reach], joined), dim=1)
        decay = torch.cat((decay[:, :reach], decay[:, reach:] * decay[:, :-reach]), dim=1)
        reach *= 2
    return x
