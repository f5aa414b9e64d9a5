"""The layers of the Transformer's encoder and decoder.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1; layer normalisation before
sublayers: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
Shapes: B sentences, S source pieces, T target pieces, D dimension; in beam search N sentences
with K hypotheses each.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nmtasync.models.attention import CrossAttention, KeysValues, Past, SelfAttention
from nmtasync.models.dropout import Dropout
from nmtasync.models.feed_forward import FeedForward
from nmtasync.models.positions import RotaryPositions
from nmtasync.models.ssru import SSRU


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of a network have in common.

    Attributes:
        dimension: D.
        heads: Of each attention, a divisor of D.
        feed_forward: Width inside feed-forward layers.
        activation: See `FeedForward`.
        norm: "pre" (x + dropout(sublayer(norm(x)))) or "post" (norm(x + dropout(sublayer(x)))).
        dropout: Probability, for the outputs of sublayers.
        attention_dropout: Probability, for the weights of attentions.
        feed_forward_dropout: Probability, inside feed-forward layers.
        rotary: What tells self-attention of positions, if embeddings don't.
    """

    dimension: int
    heads: int
    feed_forward: int
    activation: str
    norm: str
    dropout: float
    attention_dropout: float
    feed_forward_dropout: float
    rotary: RotaryPositions | None


class _Layer(nn.Module):
    """What layers of both sides do around each sublayer."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self.pre_norm = options.norm == "pre"
        self.dropout = Dropout(options.dropout)

    def sublayer_input(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Return what a sublayer reads, given the layer's state x."""
        read: Tensor = norm(x) if self.pre_norm else x
        return read

    def add_sublayer(self, norm: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Add a sublayer's output to the layer's state x."""
        added: Tensor = x + self.dropout(output)
        return added if self.pre_norm else norm(added)


class EncoderLayer(_Layer):
    """Self-attention and feed-forward."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.attention_norm = nn.LayerNorm(options.dimension)
        self.attention = build_self_attention(options, causal=False)
        self.feed_forward_norm = nn.LayerNorm(options.dimension)
        self.feed_forward = build_feed_forward(options)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Transform sources [B, S, D], with the padding hidden by `bias` [B, 1, 1, S]."""
        attended = self.attention(self.sublayer_input(self.attention_norm, x), bias)
        x = self.add_sublayer(self.attention_norm, x, attended)
        fed = self.feed_forward(self.sublayer_input(self.feed_forward_norm, x))
        return self.add_sublayer(self.feed_forward_norm, x, fed)


class DecoderLayer(_Layer):
    """Causal self-attention or what takes its place, attention to the source, feed-forward.

    Args:
        options: What all layers have in common.
        recurrent: Let an SSRU take the place of self-attention.
    """

    def __init__(self, options: LayerOptions, *, recurrent: bool) -> None:
        super().__init__(options)
        dimension = options.dimension
        self.attention_norm = nn.LayerNorm(dimension)
        self.attention: SelfAttention | SSRU = (
            SSRU(dimension) if recurrent else build_self_attention(options, causal=True)
        )
        self.cross_norm = nn.LayerNorm(dimension)
        self.cross = CrossAttention(dimension, options.heads, options.attention_dropout)
        self.feed_forward_norm = nn.LayerNorm(dimension)
        self.feed_forward = build_feed_forward(options)

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
        self, x: Tensor, past: Past | None, source: KeysValues, bias: Tensor
    ) -> tuple[Tensor, Past]:
        """Transform one new position of each row [N * K, D] of N sentences."""
        attended, past = self.attention.step(self.sublayer_input(self.attention_norm, x), past)
        grouped = (bias.shape[0], -1, x.shape[-1])
        after = self._after_self_attention(x.view(grouped), attended.view(grouped), source, bias)
        return after.view(x.shape), past

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


def build_self_attention(options: LayerOptions, *, causal: bool) -> SelfAttention:
    """Build a layer's self-attention."""
    return SelfAttention(
        options.dimension,
        options.heads,
        causal=causal,
        dropout=options.attention_dropout,
        rotary=options.rotary,
    )


def build_feed_forward(options: LayerOptions) -> FeedForward:
    """Build a layer's feed-forward."""
    return FeedForward(
        options.dimension, options.feed_forward, options.activation, options.feed_forward_dropout
    )
