"""The layers of the Transformer's encoder and decoder.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1; layer normalisation before
sublayers: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
Shapes: B sentences, S source pieces, T target pieces, D dimension; in beam search N sentences
with K hypotheses each.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from nmtasync.config.schema import ModelConfig
from nmtasync.models.attention import CrossAttention, KeysValues, SelfAttention
from nmtasync.models.dropout import Dropout
from nmtasync.models.feed_forward import FeedForward
from nmtasync.models.past import Past, Sight
from nmtasync.models.positions import RotaryPositions
from nmtasync.models.ssru import SSRU


class _Layer(nn.Module):
    """What layers of both sides do around each sublayer.

    With `model.norm` "pre" that is x + dropout(sublayer(norm(x))), with "post"
    norm(x + dropout(sublayer(x))).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.dropout = Dropout(config.dropout)

    def sublayer_input(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Return what a sublayer reads, given the layer's state x."""
        read: Tensor = norm(x) if self.pre_norm else x
        return read

    def add_sublayer(self, norm: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Add a sublayer's output to the layer's state x."""
        added: Tensor = x + self.dropout(output)
        return added if self.pre_norm else norm(added)


class EncoderLayer(_Layer):
    """Self-attention and feed-forward.

    Args:
        config: What all layers have in common.
        rotary: What tells self-attention of positions, if embeddings don't.
    """

    def __init__(self, config: ModelConfig, rotary: RotaryPositions | None) -> None:
        super().__init__(config)
        self.attention_norm = nn.LayerNorm(config.dimension)
        self.attention = build_self_attention(config, rotary, causal=False)
        self.feed_forward_norm = nn.LayerNorm(config.dimension)
        self.feed_forward = build_feed_forward(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Transform sources [B, S, D], with the padding hidden by `bias` [B, 1, 1, S]."""
        attended = self.attention(self.sublayer_input(self.attention_norm, x), bias)
        x = self.add_sublayer(self.attention_norm, x, attended)
        fed = self.feed_forward(self.sublayer_input(self.feed_forward_norm, x))
        return self.add_sublayer(self.feed_forward_norm, x, fed)


class DecoderLayer(_Layer):
    """Causal self-attention or what takes its place, attention to the source, feed-forward.

    Args:
        config: What all layers have in common.
        rotary: As of `EncoderLayer`.
    """

    def __init__(self, config: ModelConfig, rotary: RotaryPositions | None) -> None:
        super().__init__(config)
        dimension = config.dimension
        self.attention_norm = nn.LayerNorm(dimension)
        self.attention: SelfAttention | SSRU
        if config.decoder == "ssru":
            self.attention = SSRU(dimension, bias=config.ssru_bias)
        else:
            self.attention = build_self_attention(config, rotary, causal=True)
        self.cross_norm = nn.LayerNorm(dimension)
        self.cross = CrossAttention(dimension, num_heads(config), config.attention_dropout)
        self.feed_forward_norm = nn.LayerNorm(dimension)
        self.feed_forward = build_feed_forward(config)

    def forward(self, x: Tensor, source: KeysValues, bias: Tensor) -> Tensor:
        """Transform whole targets [B, T, D]; `source` and `bias` as in `CrossAttention`."""
        attended = self.attention(self.sublayer_input(self.attention_norm, x))
        return self._after_self_attention(x, attended, source, bias)

    def attend(self, x: Tensor, source: KeysValues, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Run as `forward`, and return the weights as `CrossAttention.attend` [B, T, S]."""
        attended = self.attention(self.sublayer_input(self.attention_norm, x))
        x = self.add_sublayer(self.attention_norm, x, attended)
        crossed, log_weights = self.cross.attend(
            self.sublayer_input(self.cross_norm, x), source, bias
        )
        return self._feed(self.add_sublayer(self.cross_norm, x, crossed)), log_weights

    def step(
        self,
        x: Tensor,
        past: Past,
        sight: Sight,
        source: KeysValues,
        bias: Tensor,
    ) -> Tensor:
        """Transform one new position of each hypothesis [N, K, D]; `past` comes to hold it."""
        read = self.sublayer_input(self.attention_norm, x)
        if isinstance(self.attention, SSRU):
            attended = self.attention.step(read, past)
        else:
            attended = self.attention.step(read, past, sight)
        return self._after_self_attention(x, attended, source, bias)

    def _after_self_attention(
        self, x: Tensor, attended: Tensor, source: KeysValues, bias: Tensor
    ) -> Tensor:
        """Compute what follows self-attention."""
        x = self.add_sublayer(self.attention_norm, x, attended)
        crossed = self.cross(self.sublayer_input(self.cross_norm, x), source, bias)
        return self._feed(self.add_sublayer(self.cross_norm, x, crossed))

    def _feed(self, x: Tensor) -> Tensor:
        """Compute the feed-forward sublayer."""
        fed = self.feed_forward(self.sublayer_input(self.feed_forward_norm, x))
        return self.add_sublayer(self.feed_forward_norm, x, fed)


def num_heads(config: ModelConfig) -> int:
    """The heads of each attention; where `model.heads` is not given, 64 elements wide."""
    return config.heads or max(1, config.dimension // 64)


def build_self_attention(
    config: ModelConfig, rotary: RotaryPositions | None, *, causal: bool
) -> SelfAttention:
    """Build a layer's self-attention."""
    return SelfAttention(
        config.dimension,
        num_heads(config),
        causal=causal,
        dropout=config.attention_dropout,
        rotary=rotary,
    )


def build_feed_forward(config: ModelConfig) -> FeedForward:
    """Build a layer's feed-forward."""
    width, dropout = feed_forward_width(config), feed_forward_dropout(config)
    return FeedForward(config.dimension, width, config.activation, dropout)


def feed_forward_dropout(config: ModelConfig) -> float:
    """The dropout inside; where `model.feed_forward_dropout` is not given, that of all else."""
    return config.dropout if config.feed_forward_dropout is None else config.feed_forward_dropout


def feed_forward_width(config: ModelConfig) -> int:
    """F; where `model.feed_forward` is not given, all activations have about as many parameters."""
    if config.feed_forward is not None:
        return config.feed_forward
    if config.activation == "swiglu":  # three matrices, not two
        return 8 * math.ceil(config.dimension / 3)
    return 4 * config.dimension
