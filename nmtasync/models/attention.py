"""Multi-head attention: over a sequence itself, and from target to source.

Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1 and section 3.2.2.
Shapes: B sentences, S source pieces, T target pieces, Q queries, D dimension, H heads,
E = D / H; in beam search N sentences with K hypotheses each, whose pieces have C cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.dropout import keep_mask
from nmtasync.models.past import KeysValuesPast, Past, Sight
from nmtasync.models.positions import RotaryPositions

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each [B, H, S, E]."""


class _Attention(nn.Module):
    """What both attentions do once they have queries, keys and values."""

    output: nn.Linear

    def __init__(self, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout

    def mix(
        self, queries: Tensor, keys_values: KeysValues, bias: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Attend with queries [B, H, Q, E], and project the result [B, Q, D]."""
        dropout = self.dropout if self.training else 0.0
        on_cpu = queries.device.type == "cpu"
        if on_cpu and queries.requires_grad and (dropout or is_narrow(queries)):
            attended = attend_by_products(queries, *keys_values, bias, dropout, causal=causal)
        else:
            attended = F.scaled_dot_product_attention(
                queries, *keys_values, attn_mask=bias, dropout_p=dropout, is_causal=causal
            )
        output: Tensor = self.output(join_heads(attended))
        return output


class SelfAttention(_Attention):
    """Attention of a sequence to itself, with one product for queries, keys and values.

    Args:
        dimension: D.
        heads: H, a divisor of D.
        causal: Whether a position sees only itself and those before it.
        dropout: Probability of a weight to be dropped.
        rotary: Turns queries and keys by their positions, if those are not in `x` already.
    """

    def __init__(
        self,
        dimension: int,
        heads: int,
        *,
        causal: bool,
        dropout: float = 0.0,
        rotary: RotaryPositions | None = None,
    ) -> None:
        super().__init__(heads, dropout)
        self.causal = causal
        self.rotary = rotary
        self.inputs = nn.Linear(dimension, 3 * dimension)
        self.output = nn.Linear(dimension, dimension)
        # Glorot's bound over the fused matrix is each of the three's own, divided by sqrt(2).
        initialise(self.inputs)
        initialise(self.output)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend over whole sequences.

        Args:
            x: The sequences [B, S, D].
            bias: What is added to the attention logits: minus infinity hides [B, 1, 1, S].
                None where `causal` hides all there is to hide.

        Returns:
            The attended values [B, S, D].
        """
        queries, keys, values = self._project(x, 0)
        return self.mix(queries, (keys, values), bias, causal=self.causal)

    def begin(self) -> KeysValuesPast:
        """What is remembered before the first piece."""
        return KeysValuesPast()

    def step(self, x: Tensor, past: Past, sight: Sight) -> Tensor:
        """Attend from a new position of each hypothesis to all before it and to itself.

        There is no dropout. The product with all cells of a sentence costs less than a copy of
        those that a hypothesis sees.

        Args:
            x: The new positions [N, K, D].
            past: The positions before, to which the new ones are added.
            sight: Which cells, the new ones included, each hypothesis sees.

        Returns:
            The attended values [N, K, D].
        """
        assert isinstance(past, KeysValuesPast)
        projected = self._project(x.flatten(0, 1).unsqueeze(1), sight.position)
        queries, keys, values = (
            part.view(*x.shape[:2], *part.shape[1::2]).transpose(1, 2) for part in projected
        )
        keys, values = past.append(keys, values)
        energies = (queries * queries.shape[3] ** -0.5) @ keys.transpose(2, 3)
        weights = (energies + sight.bias.unsqueeze(1)).softmax(3)
        attended: Tensor = self.output(join_heads(weights @ values))
        return attended

    def _project(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values of the positions from `start` on."""
        projected = self.inputs(x).unflatten(2, (3, self.heads, -1))
        if self.rotary is None:
            queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            turned = self.rotary(projected[:, :, :2], start)
            queries, keys = turned.permute(2, 0, 3, 1, 4).unbind(0)
            values = projected[:, :, 2].transpose(1, 2)
        return queries, keys, values


class CrossAttention(_Attention):
    """Attention from the target to the encoded source.

    Args:
        dimension: D.
        heads: H, a divisor of D.
        dropout: Probability of a weight to be dropped.
    """

    def __init__(self, dimension: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(heads, dropout)
        self.queries = nn.Linear(dimension, dimension)
        self.keys_values = nn.Linear(dimension, 2 * dimension)
        self.output = nn.Linear(dimension, dimension)
        for layer in (self.queries, self.keys_values, self.output):
            initialise(layer)

    def read(self, memory: Tensor) -> KeysValues:
        """Compute keys and values of encoded sources [B, S, D], once for all target pieces."""
        projected = self.keys_values(memory).unflatten(2, (2, self.heads, -1))
        keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        return keys, values

    def forward(self, x: Tensor, keys_values: KeysValues, bias: Tensor) -> Tensor:
        """Attend to the source.

        Args:
            x: Target positions, or the K hypotheses of each sentence [B, Q, D].
            keys_values: What `read` returned.
            bias: What is added to the attention logits: minus infinity hides [B, 1, 1, S].

        Returns:
            The attended values [B, Q, D].
        """
        return self.mix(split_heads(self.queries(x), self.heads), keys_values, bias)

    def attend(self, x: Tensor, keys_values: KeysValues, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the source and return the weights, too.

        Args:
            x: As of `forward` [B, Q, D].
            keys_values: As of `forward`.
            bias: As of `forward`.

        Returns:
            The attended values [B, Q, D], and the logarithms of the weights, before dropout, in
            the mean over heads [B, Q, S]; these in float32, or the type of `x` if that is wider.
        """
        queries = split_heads(self.queries(x), self.heads)
        keys, _ = keys_values
        scores = queries @ keys.transpose(2, 3) * keys.shape[3] ** -0.5
        sum_dtype = torch.promote_types(scores.dtype, torch.float32)
        # finite, as logsumexp has no gradient where all is minus infinity
        hidden = bias.to(sum_dtype).clamp(min=torch.finfo(sum_dtype).min)
        weights = torch.log_softmax(scores.to(sum_dtype) + hidden, dim=3)
        log_mean = torch.logsumexp(weights, dim=1) - math.log(self.heads)
        return self.mix(queries, keys_values, bias), log_mean


def attend_by_products(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    dropout: float,
    *,
    causal: bool,
) -> Tensor:
    """Attend by two matrix products and a softmax.

    On a CPU this is faster, forwards and backwards together, than what PyTorch does in 16 bits,
    which takes up to five times as long, and with dropout (benchmarks/attention.py).

    Args:
        queries: [B, H, Q, E].
        keys: [B, H, S, E].
        values: [B, H, S, E].
        bias: As of `SelfAttention.forward`; None where `causal` hides all there is to hide.
        dropout: The probability that a weight is dropped.
        causal: Whether a position sees only itself and those before it.

    Returns:
        The attended values [B, H, Q, E].
    """
    logits = (queries * queries.shape[3] ** -0.5) @ keys.transpose(2, 3)
    if causal:
        future = logits.new_full(logits.shape[2:], float("-inf")).triu(1)
        logits = logits + future
    elif bias is not None:
        logits = logits + bias
    weights = logits.softmax(3)
    if dropout:
        weights = weights * keep_mask(weights, dropout)
    attended: Tensor = weights @ values
    return attended


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask that is True at real pieces [B, S] into what is added to logits [B, 1, 1, S]."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, float("-inf"))[:, None, None, :]


def is_narrow(x: Tensor) -> bool:
    """Whether a tensor has 16 bits an element."""
    return x.dtype.itemsize == 2


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View [B, Q, D] as [B, H, Q, E]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Turn [B, H, Q, E] back into [B, Q, D]."""
    return x.transpose(1, 2).flatten(2)


def initialise(layer: nn.Linear) -> None:
    """Draw weights as Glorot and Bengio 2010, equation 16; biases are zero."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
