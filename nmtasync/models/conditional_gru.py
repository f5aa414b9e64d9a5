"""The conditional GRU: two gated recurrent units with attention to the source between them.

Source: Sennrich et al. 2017, "Nematus: a Toolkit for Neural Machine Translation", and its
technical note on the conditional GRU; the attention: Bahdanau et al. 2015, appendix A.1.2.
Shapes: B sentences, S source pieces, T target pieces, R width of the recurrent state, A width of
the attention's hidden layer, M width of the encoder's states; in beam search N sentences with
K hypotheses each (in training K is 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nmtasync.models.attention import initialise


@dataclass(frozen=True)
class Memory:
    """What the attention needs of encoded sources, computed once for all target pieces.

    Attributes:
        states: The encoder's states [N, S, M].
        keys: What they are compared by [N, S, A].
        gates: What they give to the second unit's gates; a weighted mean of these is the same
            as the gates of a weighted mean of the states [N, S, 3R].
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
    """

    def __init__(self, input_size: int, state_size: int, memory_size: int) -> None:
        super().__init__()
        self.state_size = state_size
        self.inputs = nn.Linear(input_size, 3 * state_size)
        self.first = nn.Linear(state_size, 3 * state_size)
        self.query = nn.Linear(state_size, state_size)
        self.second = nn.Linear(state_size, 3 * state_size)
        self.keys = nn.Linear(memory_size, state_size, bias=False)
        self.gates = nn.Linear(memory_size, 3 * state_size, bias=False)
        self.energy = nn.Parameter(torch.empty(state_size))
        for layer in (self.inputs, self.first, self.query, self.second):
            initialise(layer)
        nn.init.xavier_uniform_(self.keys.weight)
        nn.init.xavier_uniform_(self.gates.weight)
        for layer in (self.first, self.second):
            for block in layer.weight.detach().chunk(3):
                nn.init.orthogonal_(block)
        nn.init.uniform_(self.energy, -(state_size**-0.5), state_size**-0.5)

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
        apply: Any = _Unrolled.apply  # torch has no types for it
        states, weights = apply(
            self.inputs(x).transpose(0, 1).contiguous(),
            state,
            memory.keys,
            memory.gates,
            memory.bias,
            *self._recurrent(),
        )
        return states.transpose(0, 1), weights.transpose(0, 1) @ memory.states

    def step(self, x: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Go on by one piece.

        Args:
            x: One input of each hypothesis [N, K, input_size].
            state: Its state before [N, K, R].
            memory: The sources.

        Returns:
            The new states [N, K, R] and the contexts [N, K, M].
        """
        recurrent = self._recurrent()
        new, weights = conditional_step(self.inputs(x), state, memory, recurrent)
        return new, weights @ memory.states

    def _recurrent(self) -> _Recurrent:
        return _Recurrent(
            self.first.weight,
            self.first.bias,
            torch.cat((self.query.weight, self.second.weight)),
            torch.cat((self.query.bias, self.second.bias)),
            self.energy,
        )


class _Recurrent(NamedTuple):
    """The parameters that take part in the recurrence.

    `first` is the first unit's [3R, R]; `both` what its result is multiplied by, the attention's
    query above the second unit [A + 3R, R]; `energy` weighs the attention's hidden layer [A].
    """

    first: Tensor
    first_bias: Tensor
    both: Tensor
    both_bias: Tensor
    energy: Tensor


def conditional_step(
    inputs: Tensor, state: Tensor, memory: Memory, parameters: _Recurrent
) -> tuple[Tensor, Tensor]:
    """Take one step of the recurrence: `inputs` [N, K, 3R], `state` [N, K, R].

    Returns:
        The new state [N, K, R] and the attention's weights [N, K, S].
    """
    first, first_bias, both, both_bias, energy = parameters
    middle = gru(inputs, torch.nn.functional.linear(state, first, first_bias), state)
    joined = torch.nn.functional.linear(middle, both, both_bias)
    query, recurrent = joined[..., : energy.shape[0]], joined[..., energy.shape[0] :]
    hidden = torch.tanh(memory.keys.unsqueeze(1) + query.unsqueeze(2))  # [N, K, S, A]
    weights = torch.softmax(hidden @ energy + memory.bias, dim=-1)
    return gru(weights @ memory.gates, recurrent, middle), weights


def gru(inputs: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
    """Take one step of a gated recurrent unit from the sums at its gates.

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


class _Unrolled(torch.autograd.Function):
    """`conditional_step` over a whole target, with a backward pass written by hand.

    Autograd would multiply and add a gradient of the size of every weight matrix at each of the
    T steps; here each of them is one product over the whole target at the end.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        state: Tensor,
        keys: Tensor,
        gates: Tensor,
        bias: Tensor,
        first: Tensor,
        first_bias: Tensor,
        both: Tensor,
        both_bias: Tensor,
        energy: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run over the inputs [T, B, 3R]; returns states [T, B, R] and weights [T, B, S]."""
        length, batch, _ = inputs.shape
        size, width = state.shape[1], energy.shape[0]
        # Sums of the gates: reset, update and candidate of either unit.
        states = inputs.new_empty(length + 1, batch, size)
        middles = inputs.new_empty(length, batch, size)
        weights = inputs.new_empty(length, batch, keys.shape[1])
        queries = inputs.new_empty(length, batch, width)
        units = inputs.new_empty(length, 2, 4, batch, size)
        states[0] = state
        for t in range(length):
            recurrent = torch.addmm(first_bias, states[t], first.t())
            _unit(inputs[t], recurrent, states[t], units[t, 0], middles[t])
            joined = torch.addmm(both_bias, middles[t], both.t())
            queries[t] = joined[:, :width]
            hidden = (keys + queries[t].unsqueeze(1)).tanh_()
            energies = torch.mv(hidden.view(-1, width), energy).view(batch, -1) + bias[:, 0]
            torch.softmax(energies, dim=1, out=weights[t])
            summed = torch.bmm(weights[t].unsqueeze(1), gates).squeeze(1)
            _unit(summed, joined[:, width:], middles[t], units[t, 1], states[t + 1])
        ctx.save_for_backward(
            keys, gates, first, both, energy, states, middles, weights, queries, units
        )
        return states[1:], weights

    @staticmethod
    def backward(ctx: Any, by_states: Tensor, by_weights: Tensor) -> tuple[Tensor | None, ...]:
        """Run over the target from its end; names that begin with `by` are gradients."""
        keys, gates, first, both, energy, states, middles, weights, queries, units = (
            ctx.saved_tensors
        )
        length, batch, size = middles.shape
        width = energy.shape[0]
        by_inputs = states.new_empty(length, batch, 3 * size)
        by_summed = states.new_empty(length, batch, 3 * size)
        by_first = states.new_empty(length, batch, 3 * size)
        by_both = states.new_empty(length, batch, width + 3 * size)
        by_keys, by_energy = torch.zeros_like(keys), energy.new_zeros(batch, 1, width)
        by_state = torch.zeros_like(states[0])
        for t in reversed(range(length)):
            by_state = by_state + by_states[t]
            by_middle = _unit_backward(
                by_state, units[t, 1], middles[t], by_summed[t], by_both[t, :, width:]
            )
            by_weight = torch.bmm(gates, by_summed[t].unsqueeze(2)).squeeze(2) + by_weights[t]
            by_weight *= weights[t]
            by_logits = by_weight.sub_(weights[t] * by_weight.sum(1, keepdim=True)).unsqueeze(1)
            hidden = (keys + queries[t].unsqueeze(1)).tanh_()
            by_energy.baddbmm_(by_logits, hidden)
            slope = hidden.square_().neg_().add_(1.0).mul_(by_logits.transpose(1, 2))
            by_both[t, :, :width] = slope.sum(1) * energy
            by_keys += slope
            by_middle.addmm_(by_both[t], both)
            by_state = _unit_backward(by_middle, units[t, 0], states[t], by_inputs[t], by_first[t])
            by_state.addmm_(by_first[t], first)
        flat_first, flat_both = by_first.flatten(0, 1), by_both.flatten(0, 1)
        return (
            by_inputs,
            by_state,
            by_keys * energy,
            torch.bmm(weights.permute(1, 2, 0), by_summed.transpose(0, 1)),
            None,
            flat_first.t() @ states[:-1].flatten(0, 1),
            flat_first.sum(0),
            flat_both.t() @ middles.flatten(0, 1),
            flat_both.sum(0),
            by_energy.sum((0, 1)),
        )


def _unit(inputs: Tensor, recurrent: Tensor, state: Tensor, kept: Tensor, out: Tensor) -> None:
    """Do what `gru` does, and keep gates, candidate and its recurrent share [4, B, R]."""
    size = state.shape[1]
    torch.add(inputs[:, :size], recurrent[:, :size], out=kept[0])
    torch.add(inputs[:, size : 2 * size], recurrent[:, size : 2 * size], out=kept[1])
    kept[:2].sigmoid_()
    kept[3] = recurrent[:, 2 * size :]
    torch.addcmul(inputs[:, 2 * size :], kept[0], kept[3], out=kept[2])
    kept[2].tanh_()
    torch.lerp(kept[2], state, kept[1], out=out)


def _unit_backward(
    by_new: Tensor, kept: Tensor, state: Tensor, by_inputs: Tensor, by_recurrent: Tensor
) -> Tensor:
    """Fill in the gradients by the gates' sums [B, 3R]; returns the direct one by the state."""
    reset, update, candidate, share = kept.unbind(0)
    size = state.shape[1]
    by_candidate = by_new * (1.0 - update) * (1.0 - candidate * candidate)
    by_gates = torch.stack((by_candidate * share, by_new * (state - candidate)))
    by_gates *= kept[:2] * (1.0 - kept[:2])
    by_inputs[:, :size] = by_gates[0]
    by_inputs[:, size : 2 * size] = by_gates[1]
    by_inputs[:, 2 * size :] = by_candidate
    by_recurrent[:, : 2 * size] = by_inputs[:, : 2 * size]
    torch.mul(by_candidate, reset, out=by_recurrent[:, 2 * size :])
    return by_new * update
