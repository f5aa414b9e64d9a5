"""Gated recurrent units: one step, and a layer with one or several units a step.

Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder"; several units
a step, "deep transition": Miceli Barone et al. 2017, "Deep Architectures for Neural Machine
Translation"; dropout of their states with one mask for all steps: Gal and Ghahramani 2016, "A
Theoretically Grounded Application of Dropout in Recurrent Neural Networks".
Shapes: B sentences, T pieces, I width of the input, R width of the state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmtasync.models.attention import initialise
from nmtasync.models.dropout import Dropout
from nmtasync.models.projection import Projection, project
from nmtasync.models.step_products import StepProjection


@dataclass(frozen=True)
class CellOptions:
    """What recurrent cells are like, besides their sizes.

    Attributes:
        normalised: Whether the products of inputs and states are layer-normalised.
        dropout: Probability with which an element of a state is dropped before it is
            multiplied; for a sentence in all steps alike.
        state_bias: Whether a unit that reads an input has a bias at the state's product, too.
    """

    normalised: bool = False
    dropout: float = 0.0
    state_bias: bool = True


def gru(inputs: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
    """Compute the next state of a gated recurrent unit from the sums at its gates.

    Source: Cho et al. 2014, with the reset gate after the product, as in cuDNN and PyTorch.

    Args:
        inputs: The input's share of reset gate, update gate and candidate [..., 3R].
        recurrent: The state's share of them [..., 3R].
        state: The state before [..., R].
    """
    size = state.shape[-1]
    gates = torch.sigmoid(inputs[..., : 2 * size] + recurrent[..., : 2 * size])
    reset, update = gates.chunk(2, dim=-1)
    candidate = torch.tanh(inputs[..., 2 * size :] + reset * recurrent[..., 2 * size :])
    return candidate + update * (state - candidate)


class Transitions(nn.Module):
    """The units of a step after the one that reads the input; they read the state alone.

    Args:
        count: How many, zero allowed.
        state_size: R.
        cell: What they are like.
    """

    def __init__(self, count: int, state_size: int, cell: CellOptions) -> None:
        super().__init__()
        units = [
            Projection(state_size, 3 * state_size, normalised=cell.normalised) for _ in range(count)
        ]
        for unit in units:
            initialise(unit)
            make_orthogonal(unit.weight)
        self.units = nn.ModuleList(units)
        self.dropout = Dropout(cell.dropout)

    def forward(self, state: Tensor) -> Tensor:
        """Go through all units once, without dropout: [..., R] to [..., R]."""
        return _transit(self.units, state)

    def over_steps(self, state: Tensor, num_steps: int) -> Callable[[Tensor], Tensor]:
        """Prepare `num_steps` calls in a row, with dropout, on states like this one [B, 1, R]."""
        units = [
            StepProjection(unit.parts(), self.dropout.mask(state), num_steps, state.shape[0])
            for unit in self.units
            if isinstance(unit, Projection)
        ]
        return functools.partial(_transit, units)


def _transit(units: Iterable[Callable[[Tensor], Tensor]], state: Tensor) -> Tensor:
    """Go through units that read the state alone, given the product of each with it."""
    for unit in units:
        recurrent = unit(state)
        state = gru(torch.zeros_like(recurrent), recurrent, state)
    return state


class GatedLayer(nn.GRU):
    """A layer in one direction; PyTorch's own where it can do what is asked for.

    Args:
        input_size: I.
        state_size: R.
        depth: Units a step, the first of which reads the input.
        cell: What they are like.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, state_size: int, depth: int, cell: CellOptions) -> None:
        super().__init__(input_size, state_size, batch_first=True)
        nn.init.xavier_uniform_(self.weight_ih_l0)
        make_orthogonal(self.weight_hh_l0)
        nn.init.zeros_(self.bias_ih_l0)
        nn.init.zeros_(self.bias_hh_l0)
        if not cell.state_bias:
            del self.bias_hh_l0
            self.register_buffer("bias_hh_l0", torch.zeros(3 * state_size), persistent=False)
        self.input_gain, self.state_gain = (
            nn.Parameter(torch.ones(3 * state_size)) if cell.normalised else None for _ in range(2)
        )
        self.transitions = Transitions(depth - 1, state_size, cell)
        self.state_dropout = Dropout(cell.dropout)

    def run(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """Run over whole sequences.

        Args:
            x: The inputs [B, T, I].
            state: The state before them [B, R]; None for zeros.

        Returns:
            The states [B, T, R].
        """
        batch_size, num_steps, _ = x.shape
        if state is None:
            state = x.new_zeros(batch_size, self.hidden_size)
        state = state.unsqueeze(1)
        mask = self.state_dropout.mask(state)
        if mask is None and self.state_gain is None and not self.transitions.units:
            plain: Tensor = self(x, state.transpose(0, 1))[0]
            return plain
        parts = self.weight_hh_l0, self.bias_hh_l0, self.state_gain
        first = StepProjection(parts, mask, num_steps, batch_size)
        transitions = self.transitions.over_steps(state, num_steps)
        projected = project(x, self.weight_ih_l0, self.bias_ih_l0, self.input_gain)
        states = []
        for inputs in torch.split(projected, 1, dim=1):
            state = transitions(gru(inputs, first(state), state))
            states.append(state)
        return torch.cat(states, dim=1)


def make_orthogonal(weight: Tensor) -> None:
    """Draw each block of R rows of a recurrent matrix [3R, R] as an orthogonal matrix."""
    for block in weight.detach().chunk(3):
        nn.init.orthogonal_(block)
