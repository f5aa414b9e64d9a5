"""Multi-head attention: over a sequence itself, and from target to source.

Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1 and section 3.2.2.
Shapes: B sentences, S source pieces, T target pieces, Q queries, D dimension, H heads,
E = D / H; in beam search N sentences with K hypotheses each, and t pieces generated so far.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each [B, H, S, E]."""


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with one product for queries, keys and values.

    Args:
        dimension: D.
        heads: H, a divisor of D.
    """

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dimension, 3 * dimension)
        self.output = nn.Linear(dimension, dimension)
        # Glorot's bound over the fused matrix is each of the three's own, divided by sqrt(2).
        initialise(self.inputs)
        initialise(self.output)

    def forward(self, x: Tensor, *, bias: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend over whole sequences.

        Args:
            x: The sequences [B, S, D].
            bias: What is added to the attention logits: minus infinity hides [B, 1, 1, S].
            causal: Whether a position sees only itself and those before it.

        Returns:
            The attended values [B, S, D].
        """
        queries, keys, values = self._project(x)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias, is_causal=causal
        )
        output: Tensor = self.output(join_heads(attended))
        return output

    def step(self, x: Tensor, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """Attend from one new position to all before it and to itself.

        Args:
            x: The new position of each row [B, D].
            past: Keys and values of the positions before, each [B, H, t, E], None at first.

        Returns:
            The attended values [B, D], and keys and values with the new position.
        """
        queries, keys, values = self._project(x.unsqueeze(1))
        if past is not None:
            keys = torch.cat((past[0], keys), dim=2)
            values = torch.cat((past[1], values), dim=2)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return self.output(join_heads(attended)).squeeze(1), (keys, values)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, dimension = x.shape
        projected = self.inputs(x).view(batch, length, 3, self.heads, dimension // self.heads)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        return queries, keys, values


class CrossAttention(nn.Module):
    """Attention from the target to the encoded source.

    Args:
        dimension: D.
        heads: H, a divisor of D.
    """

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(dimension, dimension)
        self.keys_values = nn.Linear(dimension, 2 * dimension)
        self.output = nn.Linear(dimension, dimension)
        for layer in (self.queries, self.keys_values, self.output):
            initialise(layer)

    def read(self, memory: Tensor) -> KeysValues:
        """Compute keys and values of encoded sources [B, S, D], once for all target pieces."""
        batch, length, dimension = memory.shape
        split = (batch, length, 2, self.heads, dimension // self.heads)
        keys, values = self.keys_values(memory).view(split).permute(2, 0, 3, 1, 4).unbind(0)
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
        queries = split_heads(self.queries(x), self.heads)
        attended = F.scaled_dot_product_attention(queries, *keys_values, attn_mask=bias)
        output: Tensor = self.output(join_heads(attended))
        return output


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask that is True at real pieces [B, S] into what is added to logits [B, 1, 1, S]."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, float("-inf"))[:, None, None, :]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View [B, Q, D] as [B, H, Q, E]."""
    batch, length, dimension = x.shape
    return x.view(batch, length, heads, dimension // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Turn [B, H, Q, E] back into [B, Q, D]."""
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * width)


def initialise(layer: nn.Linear) -> None:
    """Draw weights as Glorot and Bengio 2010, equation 16; biases are zero."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
