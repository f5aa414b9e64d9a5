"""The conditional GRU: gated recurrent units with attention to the source after the first.

Source: Sennrich et al. 2017, "Nematus: a Toolkit for Neural Machine Translation", and its
technical note on the conditional GRU, which has two units; more: Miceli Barone et al. 2017, "Deep
Architectures for Neural Machine Translation"; the attention: Bahdanau et al. 2015, appendix A.1.2.
Shapes: B sentences, S source pieces, T target pieces, R width of the recurrent state, A width of
the attention's hidden layer, M width of the encoder's states; in beam search N sentences with
K hypotheses each (in training K is 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.attention import initialise
from nmtasync.models.dropout import Dropout
from nmtasync.models.gru import CellOptions, Transitions, gru, make_orthogonal
from nmtasync.models.projection import EPSILON, Projection
from nmtasync.models.step_products import StepProduct, StepProjection


@dataclass(frozen=True)
class Memory:
    """What the attention needs of encoded sources, computed once for all target pieces.

    Attributes:
        states: The encoder's states [N, S, M].
        keys: What they are compared by [N, S, A].
        gates: What they give to the second unit's gates, before layer normalisation; a weighted
            mean of these is the same as the gates of a weighted mean of the states [N, S, 3R].
        bias: Minus infinity at padding, else zero [N, 1, S].
    """

    states: Tensor
    keys: Tensor
    gates: Tensor
    bias: Tensor

    def select(self, sentences: Tensor) -> Memory:
        """Keep some sentences [N']."""
        parts = (self.states, self.keys, self.gates, self.bias)
        return Memory(*(part[sentences] for part in parts))


Product = Callable[[Tensor], Tensor]
"""What multiplies by parameters, or by what was computed from the source."""


class _Products(NamedTuple):
    """The products of a step: in beam search the layers' own, in training `StepProduct`s.

    Attributes:
        first: The first unit's product with the state [N, K, R] to [N, K, 3R].
        query: The attention's with the state after that unit [N, K, R] to [N, K, A].
        second: The second unit's with the same state [N, K, R] to [N, K, 3R].
        gates: The weighted mean of `Memory.gates` [N, K, S] to [N, K, 3R].
        transitions: The units after the second [N, K, R] to [N, K, R].
    """

    first: Product
    query: Product
    second: Product
    gates: Product
    transitions: Product


class ConditionalGRU(nn.Module):
    """One layer of a decoder that reads the source with attention.

    Args:
        input_size: Width of the input.
        state_size: R.
        memory_size: M.
        attention_size: A.
        depth: Units a step, at least 2: one before the attention, and those after it, the first
            of which reads the context.
        cell: What they are like; the same holds for the attention.
    """

    def __init__(
        self,
        input_size: int,
        state_size: int,
        memory_size: int,
        attention_size: int,
        depth: int,
        cell: CellOptions,
    ) -> None:
        super().__init__()
        normalised = cell.normalised
        self.inputs = Projection(input_size, 3 * state_size, normalised=normalised)
        self.first = Projection(
            state_size, 3 * state_size, normalised=normalised, bias=cell.state_bias
        )
        self.query = Projection(state_size, attention_size, normalised=normalised)
        self.second = Projection(state_size, 3 * state_size, normalised=normalised)
        self.keys = Projection(memory_size, attention_size, normalised=normalised, bias=False)
        self.gates = nn.Linear(memory_size, 3 * state_size, bias=False)
        self.gates_gain = nn.Parameter(torch.ones(3 * state_size)) if normalised else None
        self.energy = nn.Parameter(torch.empty(attention_size))
        for layer in (self.inputs, self.first, self.query, self.second):
            initialise(layer)
        nn.init.xavier_uniform_(self.keys.weight)
        nn.init.xavier_uniform_(self.gates.weight)
        make_orthogonal(self.first.weight)
        make_orthogonal(self.second.weight)
        nn.init.uniform_(self.energy, -(attention_size**-0.5), attention_size**-0.5)
        self.transitions = Transitions(depth - 2, state_size, cell)
        self.dropout = Dropout(cell.dropout)

    def read(self, states: Tensor, bias: Tensor) -> Memory:
        """Compute what the attention needs of encoded sources; arguments as in `Memory`."""
        return Memory(states, self.keys(states), self.gates(states), bias)

    def forward(self, x: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Run over whole targets.

        Args:
            x: The inputs [B, T, input_size].
            state: The state before them [B, R].
            memory: The sources.

        Returns:
            The states [B, T, R], the contexts, weighted means of the encoder's states [B, T, M],
            and the energies, of which the weights are the softmax [B, T, S].
        """
        state = state.unsqueeze(1)
        products = self._over_steps(state, memory, num_steps=x.shape[1])
        states, steps_energies = [], []
        for inputs in self.inputs(x).split(1, dim=1):
            state, energies = self._step(inputs, state, memory, products)
            states.append(state)
            steps_energies.append(energies)
        energies = torch.cat(steps_energies, dim=1)
        return torch.cat(states, dim=1), torch.softmax(energies, dim=2) @ memory.states, energies

    def step(self, x: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Compute the next state and context, without dropout.

        Args:
            x: One input of each hypothesis [N, K, input_size].
            state: Its state before [N, K, R].
            memory: The sources.

        Returns:
            The new states [N, K, R] and the contexts [N, K, M].
        """
        products = _Products(
            self.first,
            self.query,
            self.second,
            lambda weights: weights @ memory.gates,
            self.transitions,
        )
        state, energies = self._step(self.inputs(x), state, memory, products)
        return state, torch.softmax(energies, dim=2) @ memory.states

    def _over_steps(self, state: Tensor, memory: Memory, num_steps: int) -> _Products:
        """Prepare the products of all steps, with dropout masks for states like this [B, 1, R]."""
        steps = num_steps, state.shape[0]
        mask = self.dropout.mask(state)  # of the state that both query and second unit read
        return _Products(
            StepProjection(self.first.parts(), self.dropout.mask(state), *steps),
            StepProjection(self.query.parts(), mask, *steps),
            StepProjection(self.second.parts(), mask, *steps),
            StepProduct(memory.gates, *steps),
            self.transitions.over_steps(state, num_steps),
        )

    def _step(
        self, inputs: Tensor, state: Tensor, memory: Memory, products: _Products
    ) -> tuple[Tensor, Tensor]:
        """Compute the next state and its attention.

        Args:
            inputs: The inputs' share of the first unit's gates [N, K, 3R].
            state: The states before [N, K, R].
            memory: The sources.
            products: Where parameters and `memory.gates` are multiplied.

        Returns:
            The new states [N, K, R], and the energies, of which the attention's weights are the
            softmax [N, K, S].
        """
        middle = gru(inputs, products.first(state), state)
        hidden = torch.tanh(memory.keys.unsqueeze(1) + products.query(middle).unsqueeze(2))
        energies = hidden @ self.energy + memory.bias
        gates = products.gates(torch.softmax(energies, dim=2))
        if self.gates_gain is not None:
            gates = F.layer_norm(gates, self.gates_gain.shape, self.gates_gain, eps=EPSILON)
        return products.transitions(gru(gates, products.second(middle), middle)), energies
