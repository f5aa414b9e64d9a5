"""The Transformer, with layer normalisation before each sublayer.

Source: Vaswani et al. 2017, "Attention Is All You Need"; the order of layer normalisation
and the final ones: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
Shapes: B sentences, S source pieces, T target pieces, D dimension, H heads, E = D / H,
F feed-forward width; in beam search N sentences with K hypotheses each, t pieces generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.attention import (
    CrossAttention,
    KeysValues,
    SelfAttention,
    attention_bias,
    initialise,
)
from nmtasync.models.dropout import Dropout
from nmtasync.models.embeddings import Embeddings
from nmtasync.models.sequence_to_sequence import DecoderState, Encoded, SequenceToSequence


@dataclass(frozen=True)
class TransformerState(DecoderState):
    """What the decoder remembers.

    Attributes:
        past: Of each layer the keys and values of the pieces generated, each [N * K, H, t, E];
            empty before the first step.
        source: Of each layer the keys and values of the source, each [N, H, S, E], which the
            K hypotheses of a sentence share.
        bias: Hides the padding of the source [N, 1, 1, S].
        position: How many pieces have been generated, t.
    """

    past: list[KeysValues]
    source: list[KeysValues]
    bias: Tensor
    position: int


class FeedForward(nn.Module):
    """Two linear layers with a rectifier between them (section 3.3)."""

    def __init__(self, dimension: int, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dimension, width)
        self.output = nn.Linear(width, dimension)
        self.dropout = Dropout(dropout)
        initialise(self.inner)
        initialise(self.output)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position: [..., D] to [..., D]."""
        output: Tensor = self.output(self.dropout(F.relu(self.inner(x))))
        return output


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each x + dropout(sublayer(norm(x)))."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dimension)
        self.attention = SelfAttention(dimension, heads)
        self.feed_forward_norm = nn.LayerNorm(dimension)
        self.feed_forward = FeedForward(dimension, feed_forward, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Transform sources [B, S, D], with the padding hidden by `bias` [B, 1, 1, S]."""
        x = x + self.dropout(self.attention(self.attention_norm(x), bias=bias))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + fed


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dimension)
        self.attention = SelfAttention(dimension, heads)
        self.cross_norm = nn.LayerNorm(dimension)
        self.cross = CrossAttention(dimension, heads)
        self.feed_forward_norm = nn.LayerNorm(dimension)
        self.feed_forward = FeedForward(dimension, feed_forward, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, source: KeysValues, bias: Tensor) -> Tensor:
        """Transform whole targets [B, T, D]; `source` and `bias` as in `CrossAttention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), causal=True))
        return self._attend_and_feed(x, source, bias)

    def step(
        self, x: Tensor, past: KeysValues | None, source: KeysValues, bias: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """Transform one new position of each row [N * K, D] of N sentences."""
        attended, past = self.attention.step(self.attention_norm(x), past)
        grouped = (x + attended).view(bias.shape[0], -1, x.shape[-1])
        return self._attend_and_feed(grouped, source, bias).view(x.shape), past

    def _attend_and_feed(self, x: Tensor, source: KeysValues, bias: Tensor) -> Tensor:
        x = x + self.dropout(self.cross(self.cross_norm(x), source, bias))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + fed


class Transformer(SequenceToSequence):
    """A Transformer encoder-decoder.

    Args:
        embeddings: The embeddings of both sides, of width D.
        dimension: D, an even number.
        heads: H, a divisor of D.
        feed_forward: F.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        dropout: Probability, for embeddings, inside feed-forward layers and after sublayers.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        dimension: int,
        heads: int,
        feed_forward: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__(embeddings)
        sizes = (dimension, heads, feed_forward, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(dimension)
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(dimension)
        self.dropout = Dropout(dropout)
        self._positions = sinusoids(256, dimension)

    def encode(self, source: Tensor, source_mask: Tensor) -> Encoded:
        """Read the source, as the interface says; the states are [B, S, D]."""
        x = self._enter(self.embeddings.embed_source(source))
        bias = attention_bias(source_mask, x.dtype)
        for layer in self.encoder:
            x = layer(x, bias)
        return Encoded(self.encoder_norm(x), source_mask)

    def decode(self, encoded: Encoded, target_input: Tensor) -> Tensor:
        """Run the decoder over whole targets, as the interface says.

        Padding of the target needs no mask: it stands after all real pieces.
        """
        x = self._enter(self.embeddings.embed_target(target_input))
        bias = attention_bias(encoded.mask, x.dtype)
        for layer in self.decoder:
            assert isinstance(layer, DecoderLayer)
            x = layer(x, layer.cross.read(encoded.states), bias)
        outputs: Tensor = self.decoder_norm(x)
        return outputs

    def start(self, encoded: Encoded) -> TransformerState:
        """Compute the source's keys and values of all layers."""
        layers = [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]
        source = [layer.cross.read(encoded.states) for layer in layers]
        return TransformerState([], source, attention_bias(encoded.mask, encoded.states.dtype), 0)

    def decode_step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, TransformerState]:
        """Go on by one piece, as the interface says."""
        assert isinstance(state, TransformerState)
        x = self.embeddings.embed_target(tokens)
        x = x + self._position_rows(state.position + 1, x)[-1]
        present = []
        for index, layer in enumerate(self.decoder):
            assert isinstance(layer, DecoderLayer)
            past = state.past[index] if state.past else None
            x, keys_values = layer.step(x, past, state.source[index], state.bias)
            present.append(keys_values)
        after = TransformerState(present, state.source, state.bias, state.position + 1)
        return self.logits(self.decoder_norm(x)), after

    def reorder(self, state: DecoderState, rows: Tensor) -> TransformerState:
        """Select and repeat rows, as the interface says; the source is copied only if it must."""
        assert isinstance(state, TransformerState)
        flat = rows.reshape(-1)
        past = [(keys[flat], values[flat]) for keys, values in state.past]
        source, bias = state.source, state.bias
        if rows.shape[0] < bias.shape[0]:
            rows_before = 1 if not state.past else state.past[0][0].shape[0] // bias.shape[0]
            sentences = rows[:, 0] // rows_before
            source = [(keys[sentences], values[sentences]) for keys, values in source]
            bias = bias[sentences]
        return TransformerState(past, source, bias, state.position)

    def _enter(self, embedded: Tensor) -> Tensor:
        """Add positions to embeddings [B, S, D] and drop some of their elements."""
        entered: Tensor = self.dropout(embedded + self._position_rows(embedded.shape[1], embedded))
        return entered

    def _position_rows(self, length: int, like: Tensor) -> Tensor:
        """Give the first positions [length, D], kept from call to call and grown at need."""
        table = self._positions
        if table.shape[0] < length or table.device != like.device or table.dtype != like.dtype:
            size = max(table.shape[0], 1 << (length - 1).bit_length())
            table = sinusoids(size, like.shape[-1]).to(like.device, like.dtype)
            self._positions = table
        return table[:length]


def sinusoids(length: int, dimension: int) -> Tensor:
    """Compute the positions of section 3.5, the sines first and then the cosines [length, D]."""
    half = dimension // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(1, half - 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)
