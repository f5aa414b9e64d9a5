"""Parts of recurrent networks, run step by step, with their backward passes written by hand.

Autograd would multiply and add a gradient of the size of every weight matrix at each of the T
steps, and remember each operation; here a matrix has one product over all steps at the end. A
tape notes what its `backward` needs of each step. Steps go forwards from 0, then backwards from
T - 1, at last `gradients` gives those of the parameters. Names that begin with `by` are gradients.
Shapes: B sentences, T steps, R width of the state, N width of a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nmtasync.models.projection import EPSILON

_aten = torch.ops.aten


class Recurrent(NamedTuple):
    """A product of the state, as part of a recurrence.

    Attributes:
        weight: What the state is multiplied by [N, R].
        bias: What is added [N].
        gain: Of the layer normalisation between the two, if there is one [N].
        keep: The mask of the dropout of the state before it, if there is one [B, R].
    """

    weight: Tensor
    bias: Tensor
    gain: Tensor | None
    keep: Tensor | None


class NormTape:
    """Layer normalisation, with a gain [N] and perhaps a bias [N]."""

    def __init__(self, gain: Tensor, bias: Tensor | None) -> None:
        self.gain, self.bias = gain, bias
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.by_outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Normalise one step [B, N]."""
        normal, mean, inverse = torch.native_layer_norm(
            x, self.gain.shape, self.gain, self.bias, EPSILON
        )
        self.steps.append((x, mean, inverse))
        return normal

    def backward(self, t: int, by_output: Tensor) -> Tensor:
        """Give the gradient by the input of step `t` [B, N]."""
        self.by_outputs.append(by_output)
        by_x: Tensor = self._backward(by_output, *self.steps[t], [True, False, False])[0]
        return by_x

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Give the gradients by gain and bias."""
        x, mean, inverse = (torch.cat(parts) for parts in zip(*self.steps, strict=True))
        wanted = [False, True, self.bias is not None]
        _, by_gain, by_bias = self._backward(_join(self.by_outputs), x, mean, inverse, wanted)
        return by_gain, by_bias

    def _backward(
        self, by_output: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        gradients: tuple[Tensor, Tensor, Tensor | None] = _aten.native_layer_norm_backward(
            by_output, x, self.gain.shape, mean, inverse, self.gain, self.bias, wanted
        )
        return gradients


class ProductTape:
    """The product of a state with a matrix, as `Recurrent` says."""

    def __init__(self, recurrent: Recurrent) -> None:
        self.weight, self.bias, gain, self.keep = recurrent
        self.norm = None if gain is None else NormTape(gain, self.bias)
        self.states: list[Tensor] = []
        self.by_products: list[Tensor] = []

    def forward(self, state: Tensor) -> Tensor:
        """Multiply a state [B, R]; returns a new tensor [B, N]."""
        if self.keep is not None:
            state = state * self.keep
        self.states.append(state)
        if self.norm is None:
            return torch.addmm(self.bias, state, self.weight.t())
        return self.norm.forward(state @ self.weight.t())

    def backward(self, t: int, by_output: Tensor, by_state: Tensor) -> None:
        """Add to the gradient by the state of step `t` what comes through this product."""
        by_product = by_output if self.norm is None else self.norm.backward(t, by_output)
        self.by_products.append(by_product)
        if self.keep is None:
            by_state.addmm_(by_product, self.weight)
        else:
            by_state.addcmul_(by_product @ self.weight, self.keep)

    def gradients(self) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """Give the gradients by the parts of `Recurrent`."""
        by_products = _join(self.by_products)
        by_weight = by_products.t() @ torch.cat(self.states)
        if self.norm is None:
            return by_weight, by_products.sum(0), None, None
        by_gain, by_bias = self.norm.gradients()
        return by_weight, by_bias, by_gain, None


class UnitTape:
    """A gated recurrent unit; what it computes is `nmtasync.models.gru.gru`."""

    def __init__(self, recurrent: Recurrent) -> None:
        self.product = ProductTape(recurrent)
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Take a step: inputs [B, 3R] (or [3R] for all) and state [B, R] to the new state."""
        gates = 2 * state.shape[1]
        recurrent = self.product.forward(state)
        recurrent[:, :gates].add_(inputs[..., :gates]).sigmoid_()
        reset, update, share = recurrent.chunk(3, dim=1)
        candidate = torch.addcmul(inputs[..., gates:], reset, share).tanh_()
        self.steps.append((reset, update, share, candidate, state))
        return torch.lerp(candidate, state, update)

    def backward(self, t: int, by_new: Tensor, by_inputs: Tensor) -> Tensor:
        """Go back through step `t`.

        Args:
            t: The step.
            by_new: The gradient by the new state [B, R].
            by_inputs: Is filled with the gradient by the inputs [B, 3R].

        Returns:
            The gradient by the state before [B, R].
        """
        reset, update, share, candidate, state = self.steps[t]
        by_reset, by_update, by_candidate = by_inputs.chunk(3, dim=1)
        by_state = by_new * update
        _aten.tanh_backward.grad_input(by_new - by_state, candidate, grad_input=by_candidate)
        _aten.sigmoid_backward.grad_input(by_candidate * share, reset, grad_input=by_reset)
        difference = (state - candidate).mul_(by_new)
        _aten.sigmoid_backward.grad_input(difference, update, grad_input=by_update)
        by_recurrent = by_inputs.clone()
        by_recurrent[:, 2 * state.shape[1] :] *= reset
        self.product.backward(t, by_recurrent, by_state)
        return by_state


class CellTape:
    """Gated units one after the other, all in each step; the first of them reads the input."""

    def __init__(self, recurrents: Sequence[Recurrent]) -> None:
        self.units = [UnitTape(recurrent) for recurrent in recurrents]
        self.no_inputs = torch.zeros_like(recurrents[0].bias)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Take a step: inputs [B, 3R] and state [B, R] to the new state."""
        for unit in self.units:
            state = unit.forward(inputs, state)
            inputs = self.no_inputs
        return state

    def backward(self, t: int, by_new: Tensor, by_inputs: Tensor) -> Tensor:
        """Go back through step `t`; arguments and result as of `UnitTape.backward`."""
        for unit in reversed(self.units):
            # All fill the same place: only the input of the first unit is anything but zeros.
            by_new = unit.backward(t, by_new, by_inputs)
        return by_new

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Give the gradients by the flattened parameters."""
        return tuple(part for unit in self.units for part in unit.product.gradients())


def flatten(recurrents: Iterable[Recurrent]) -> list[Tensor | None]:
    """List all parts, as arguments of an autograd function."""
    return [part for recurrent in recurrents for part in recurrent]


def unflatten(parts: Sequence[Any]) -> list[Recurrent]:
    """Undo `flatten`."""
    size = len(Recurrent._fields)
    return [Recurrent(*parts[i : i + size]) for i in range(0, len(parts), size)]


def _join(last_first: list[Tensor]) -> Tensor:
    """Join what a backward pass has noted, the first step first, and forget it."""
    joined = torch.cat(last_first[::-1])
    last_first.clear()
    return joined
