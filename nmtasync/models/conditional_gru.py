"""The conditional GRU: gated recurrent units with attention to the source after the first.

Source: Sennrich et al. 2017, "Nematus: a Toolkit for Neural Machine Translation", and its
technical note on the conditional GRU, which has two units; more: Miceli Barone et al. 2017, "Deep
Architectures for Neural Machine Translation"; the attention: Bahdanau et al. 2015, appendix A.1.2.
Shapes: B sentences, S source pieces, T target pieces, R width of the recurrent state, A width of
the attention's hidden layer, M width of the encoder's states; in beam search N sentences with
K hypotheses each (in training K is 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nmtasync.models.attention import initialise
from nmtasync.models.dropout import Dropout
from nmtasync.models.gru import CellOptions, Transitions, gru, make_orthogonal
from nmtasync.models.projection import EPSILON, Projection
from nmtasync.models.tape import CellTape, NormTape, ProductTape, Recurrent, flatten, unflatten

_aten = torch.ops.aten


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


class ConditionalGRU(nn.Module):
    """One layer of a decoder that reads the source with attention.

    Args:
        input_size: Width of the input.
        state_size: R.
        memory_size: M.
        depth: Units a step, at least 2: one before the attention, and those after it, the first
            of which reads the context.
        cell: What they are like; the same holds for the attention.
    """

    def __init__(
        self, input_size: int, state_size: int, memory_size: int, depth: int, cell: CellOptions
    ) -> None:
        super().__init__()
        normalised = cell.normalised
        self.inputs = Projection(input_size, 3 * state_size, normalised=normalised)
        self.first = Projection(state_size, 3 * state_size, normalised=normalised)
        self.query = Projection(state_size, state_size, normalised=normalised)
        self.second = Projection(state_size, 3 * state_size, normalised=normalised)
        self.keys = Projection(memory_size, state_size, normalised=normalised, bias=False)
        self.gates = nn.Linear(memory_size, 3 * state_size, bias=False)
        self.gates_gain = nn.Parameter(torch.ones(3 * state_size)) if normalised else None
        self.energy = nn.Parameter(torch.empty(state_size))
        for layer in (self.inputs, self.first, self.query, self.second):
            initialise(layer)
        nn.init.xavier_uniform_(self.keys.weight)
        nn.init.xavier_uniform_(self.gates.weight)
        make_orthogonal(self.first.weight)
        make_orthogonal(self.second.weight)
        nn.init.uniform_(self.energy, -(state_size**-0.5), state_size**-0.5)
        self.transitions = Transitions(depth - 2, state_size, cell)
        self.dropout = Dropout(cell.dropout)

    def read(self, states: Tensor, bias: Tensor) -> Memory:
        """Compute what the attention needs of encoded sources; arguments as in `Memory`."""
        return Memory(states, self.keys(states), self.gates(states), bias)

    def forward(self, x: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Run over whole targets.

        Args:
            x: The inputs [B, T, input_size].
            state: The state before them [B, R].
            memory: The sources.

        Returns:
            The states [B, T, R] and the contexts, weighted means of the encoder's states
            [B, T, M].
        """
        states, contexts, _ = self._unroll(x, state, memory, with_energies=False)
        return states, contexts

    def attend(self, x: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Run over whole targets and tell the weights.

        Args:
            x: As of `forward` [B, T, input_size].
            state: As of `forward` [B, R].
            memory: The sources.

        Returns:
            The states [B, T, R], the contexts [B, T, M], and the logarithms of the weights of the
            encoder's states [B, T, S]; these in float32, or the type of `x` if that is wider.
        """
        states, contexts, energies = self._unroll(x, state, memory, with_energies=True)
        assert energies is not None
        wide = torch.promote_types(energies.dtype, torch.float32)
        return states, contexts, torch.log_softmax(energies, dim=2, dtype=wide)

    def _unroll(
        self, x: Tensor, state: Tensor, memory: Memory, *, with_energies: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run over whole targets; returns states, contexts and, if asked, energies [B, T, S]."""
        keep = self.dropout.mask(state)  # of the state that both query and second unit read
        first = Recurrent(*self.first.parts(), self.dropout.mask(state))
        query = Recurrent(*self.query.parts(), keep)
        second = Recurrent(*self.second.parts(), keep)
        recurrents = (first, query, second, *self.transitions.recurrents(state))
        apply: Any = _Unrolled.apply  # torch has no types for it
        states, weights, energies = apply(
            with_energies,
            self.inputs(x).transpose(0, 1).contiguous(),
            state,
            memory.keys,
            memory.gates,
            memory.bias,
            self.gates_gain,
            self.energy,
            *flatten(recurrents),
        )
        if energies is not None:
            energies = energies.transpose(0, 1)
        return states.transpose(0, 1), weights.transpose(0, 1) @ memory.states, energies

    def step(self, x: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Go on by one piece, without dropout.

        Args:
            x: One input of each hypothesis [N, K, input_size].
            state: Its state before [N, K, R].
            memory: The sources.

        Returns:
            The new states [N, K, R] and the contexts [N, K, M].
        """
        middle = gru(self.inputs(x), self.first(state), state)
        hidden = torch.tanh(memory.keys.unsqueeze(1) + self.query(middle).unsqueeze(2))
        weights = torch.softmax(hidden @ self.energy + memory.bias, dim=-1)  # [N, K, S]
        gates = weights @ memory.gates
        if self.gates_gain is not None:
            gates = F.layer_norm(gates, self.gates_gain.shape, self.gates_gain, eps=EPSILON)
        new = self.transitions.step(gru(gates, self.second(middle), middle))
        return new, weights @ memory.states


class _AttentionTape:
    """The attention, from queries to the weighted means of the gates.

    The hidden layer [B, S, A] is computed again on the way back: kept for all steps, it would be
    the largest part of what a batch needs of memory. The energies, of which the weights are the
    softmax, are kept on request.
    """

    def __init__(
        self, keys: Tensor, gates: Tensor, bias: Tensor, energy: Tensor, with_energies: bool
    ) -> None:
        self.keys, self.gates, self.bias, self.energy = keys, gates, bias[:, 0], energy
        self.energies: list[Tensor] | None = [] if with_energies else None
        self.queries: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.by_means: list[Tensor] = []
        self.by_sums: Tensor | None = None
        self.by_energy: Tensor | None = None

    def forward(self, query: Tensor) -> Tensor:
        """Attend from the queries of one step [B, A]; returns means [B, 3R]."""
        hidden = self._hidden(query)
        energies = torch.mv(hidden.flatten(0, 1), self.energy).view(self.bias.shape) + self.bias
        if self.energies is not None:
            self.energies.append(energies)
        self.queries.append(query)
        self.weights.append(torch.softmax(energies, dim=1))
        return torch.bmm(self.weights[-1].unsqueeze(1), self.gates).squeeze(1)

    def backward(
        self, t: int, by_mean: Tensor, by_weight: Tensor, by_energies_too: Tensor | None
    ) -> Tensor:
        """Go back through step `t`.

        Args:
            t: The step.
            by_mean: The gradient by the means [B, 3R].
            by_weight: The gradient by the weights that comes from contexts [B, S].
            by_energies_too: The gradient by the energies, if they were kept [B, S].

        Returns:
            The gradient by the queries [B, A].
        """
        self.by_means.append(by_mean)
        by_weight = by_weight + torch.bmm(self.gates, by_mean.unsqueeze(2)).squeeze(2)
        weights = self.weights[t]
        by_energies = _aten._softmax_backward_data(by_weight, weights, 1, weights.dtype)
        if by_energies_too is not None:
            by_energies = by_energies + by_energies_too
        hidden = self._hidden(self.queries[t])
        by_energy = torch.mv(hidden.flatten(0, 1).t(), by_energies.flatten())
        by_sums = _aten.tanh_backward(by_energies.unsqueeze(2), hidden)  # but for the energy
        by_query: Tensor = by_sums.sum(1) * self.energy
        if self.by_sums is None or self.by_energy is None:
            self.by_sums, self.by_energy = by_sums, by_energy
        else:
            self.by_sums += by_sums
            self.by_energy += by_energy
        return by_query

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give the gradients by keys, gates and energy."""
        assert self.by_sums is not None and self.by_energy is not None
        by_keys, by_energy = self.by_sums * self.energy, self.by_energy
        by_means = torch.stack(self.by_means[::-1], dim=1)
        by_gates = torch.bmm(torch.stack(self.weights, dim=2), by_means)
        self.by_means, self.by_sums, self.by_energy = [], None, None
        return by_keys, by_gates, by_energy

    def _hidden(self, query: Tensor) -> Tensor:
        return (self.keys + query.unsqueeze(1)).tanh_()


class _Unrolled(torch.autograd.Function):
    """`ConditionalGRU.step` over whole targets, with dropout of states."""

    @staticmethod
    def forward(
        ctx: Any,
        with_energies: bool,
        inputs: Tensor,
        state: Tensor,
        keys: Tensor,
        gates: Tensor,
        bias: Tensor,
        gates_gain: Tensor | None,
        energy: Tensor,
        *recurrents: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run over the inputs [T, B, 3R].

        `recurrents` are first unit, query, second unit and transitions, flattened. Returns states
        [T, B, R], weights and, if asked, energies, both [T, B, S].
        """
        first, query, *rest = unflatten(recurrents)
        ctx.first, ctx.query, ctx.rest = CellTape([first]), ProductTape(query), CellTape(rest)
        ctx.attention = _AttentionTape(keys, gates, bias, energy, with_energies)
        ctx.norm = None if gates_gain is None else NormTape(gates_gain, None)
        states = []
        for step in inputs.unbind(0):
            middle = ctx.first.forward(step, state)
            mean = ctx.attention.forward(ctx.query.forward(middle))
            if ctx.norm is not None:
                mean = ctx.norm.forward(mean)
            state = ctx.rest.forward(mean, middle)
            states.append(state)
        energies = torch.stack(ctx.attention.energies) if with_energies else None
        return torch.stack(states), torch.stack(ctx.attention.weights), energies

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_states: Tensor, by_weights: Tensor, by_energies: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Run over the targets from their end."""
        length, batch, size = by_states.shape
        by_inputs = by_states.new_empty(length, batch, 3 * size)
        by_state = torch.zeros_like(by_states[0])
        for t in reversed(range(length)):
            by_mean = by_states.new_empty(batch, 3 * size)
            by_middle = ctx.rest.backward(t, by_state + by_states[t], by_mean)
            if ctx.norm is not None:
                by_mean = ctx.norm.backward(t, by_mean)
            by_step = None if by_energies is None else by_energies[t]
            by_query = ctx.attention.backward(t, by_mean, by_weights[t], by_step)
            ctx.query.backward(t, by_query, by_middle)
            by_state = ctx.first.backward(t, by_middle, by_inputs[t])
        by_keys, by_gates, by_energy = ctx.attention.gradients()
        by_gain = None if ctx.norm is None else ctx.norm.gradients()[0]
        by_recurrents = (
            *ctx.first.gradients(),
            *ctx.query.gradients(),
            *ctx.rest.gradients(),
        )
        by_memory = by_keys, by_gates, None
        return None, by_inputs, by_state, *by_memory, by_gain, by_energy, *by_recurrents
