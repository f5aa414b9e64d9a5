"""The Transformer: embeddings, layers, and what its decoder remembers.

Source: Vaswani et al. 2017, "Attention Is All You Need"; where layers are normalised before each
sublayer, a last normalisation follows them: Xiong et al. 2020, "On Layer Normalization in the
Transformer Architecture".
Shapes: B sentences, S source pieces, T target pieces, D dimension, H heads, E = D / H; in beam
search N sentences with K hypotheses each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmtasync.config.schema import ModelConfig
from nmtasync.errors import UserError
from nmtasync.models.attention import KeysValues, attention_bias
from nmtasync.models.dropout import Dropout
from nmtasync.models.embeddings import Embeddings
from nmtasync.models.past import Past, Sight, keep_sentences
from nmtasync.models.positions import (
    LearnedPositions,
    Positions,
    RotaryPositions,
    SinusoidalPositions,
    paper_sinusoids,
    sinusoids,
)
from nmtasync.models.sequence_to_sequence import DecoderState, Encoded, SequenceToSequence
from nmtasync.models.transformer_layers import DecoderLayer, EncoderLayer, num_heads


@dataclass(frozen=True)
class TransformerState(DecoderState):
    """What the decoder remembers.

    Attributes:
        past: Of each layer what it keeps of the pieces generated; it changes in place.
        sight: What of that each hypothesis sees; it changes in place, too.
        source: Of each layer the keys and values of the source, each [N, H, S, E], which the
            K hypotheses of a sentence share.
        bias: Hides the padding of the source [N, 1, 1, S].
    """

    past: Sequence[Past]
    sight: Sight
    source: list[KeysValues]
    bias: Tensor


class Transformer(SequenceToSequence):
    """A Transformer encoder-decoder.

    Args:
        embeddings: The embeddings of both sides, of width D.
        config: Its sizes and what it is like.

    Raises:
        UserError: The sizes don't fit each other.
    """

    def __init__(self, embeddings: Embeddings, config: ModelConfig) -> None:
        super().__init__(embeddings)

        def final_norm() -> nn.Module:
            return nn.LayerNorm(config.dimension) if config.norm == "pre" else nn.Identity()

        rotary, positions = _build_positions(config)
        self.max_length = None if positions is None else positions.max_length
        self.positions = positions
        self.encoder = nn.ModuleList(
            EncoderLayer(config, rotary) for _ in range(config.encoder_layers)
        )
        self.encoder_norm = final_norm()
        self.decoder = nn.ModuleList(
            DecoderLayer(config, rotary) for _ in range(config.decoder_layers)
        )
        self.decoder_norm = final_norm()
        self.dropout = Dropout(config.dropout)
        if config.depth_scaling:
            scale_by_depth(self.encoder)
            scale_by_depth(self.decoder)

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
        return self._run_decoder(encoded, target_input, None)[0]

    def decode_with_attention(
        self, encoded: Encoded, target_input: Tensor, layer: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder and return a layer's attention, as the interface says.

        The layer is the last but one if none is named, or the only one. It runs uncompiled.
        Source of the choice: Garg et al. 2019, section 4.1.
        """
        chosen = max(0, len(self.decoder) - 2) if layer is None else layer - 1
        outputs, log_weights = self._run_decoder(encoded, target_input, chosen)
        assert log_weights is not None
        return outputs, log_weights

    def _run_decoder(
        self, encoded: Encoded, target_input: Tensor, chosen: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the decoder; returns also the attention of the layer chosen, counted from 0."""
        x = self._enter(self.embeddings.embed_target(target_input))
        bias = attention_bias(encoded.mask, x.dtype)
        log_weights = None
        for index, layer in enumerate(self.decoder):
            assert isinstance(layer, DecoderLayer)
            source = layer.cross.read(encoded.states)
            if index == chosen:
                x, log_weights = layer.attend(x, source, bias)
            else:
                x = layer(x, source, bias)
        return self.decoder_norm(x), log_weights

    def start(self, encoded: Encoded) -> TransformerState:
        """Compute the source's keys and values of all layers."""
        layers = [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]
        source = [layer.cross.read(encoded.states) for layer in layers]
        past = [layer.attention.begin() for layer in layers]
        sight = Sight(len(encoded.states), encoded.states)
        return TransformerState(
            past, sight, source, attention_bias(encoded.mask, encoded.states.dtype)
        )

    def decode_step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, TransformerState]:
        """Read one piece, as the interface says."""
        assert isinstance(state, TransformerState)
        state.sight.append()
        x = self.embeddings.embed_target(tokens.view(state.bias.shape[0], -1))
        if self.positions is not None:
            x = x + self.positions.rows(state.sight.position, 1, x)
        for layer, past, source in zip(self.decoder, state.past, state.source, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, past, state.sight, source, state.bias)
        return self.logits(self.decoder_norm(x).flatten(0, 1)), state

    def reorder(self, state: DecoderState, rows: Tensor) -> TransformerState:
        """Select and repeat rows, as the interface says; the source is copied only if it must."""
        assert isinstance(state, TransformerState)
        sentences = rows[:, 0] // state.sight.bias.shape[1]
        for past in state.past:
            past.reorder(rows, sentences)
        state.sight.reorder(rows)
        source, bias = state.source, state.bias
        if rows.shape[0] < bias.shape[0]:
            source = [
                (keep_sentences(keys, sentences), keep_sentences(values, sentences))
                for keys, values in source
            ]
            bias = keep_sentences(bias, sentences)
        return TransformerState(state.past, state.sight, source, bias)

    def _enter(self, embedded: Tensor) -> Tensor:
        """Add positions to embeddings [B, S, D] and drop some of their elements."""
        placed = embedded if self.positions is None else self.positions(embedded)
        entered: Tensor = self.dropout(placed)
        return entered


def _build_positions(config: ModelConfig) -> tuple[RotaryPositions | None, Positions | None]:
    """Build the positions: for queries and keys, or for embeddings."""
    width, left = divmod(config.dimension, num_heads(config))
    if left:
        raise UserError(
            f"{config.dimension} can't be divided among {num_heads(config)} attention heads",
            where="model.dimension",
            remedy="choose a multiple of model.heads",
        )
    match config.positions:
        case "sinusoidal" | "sinusoidal-paper":
            if config.dimension % 2:
                raise UserError("must be even", where="model.dimension")
            paper = config.positions == "sinusoidal-paper"
            compute = paper_sinusoids if paper else sinusoids
            return None, SinusoidalPositions(config.dimension, compute)
        case "learned":
            return None, LearnedPositions(config.max_positions, config.dimension)
        case "rotary":
            if width % 2:
                raise UserError(
                    f"{config.dimension} among {num_heads(config)} attention heads is {width} for "
                    "each, but rotary positions turn pairs of elements",
                    where="model.dimension",
                    remedy="choose an even multiple of model.heads",
                )
            return RotaryPositions(width), None
        case unknown:
            raise AssertionError(unknown)


@torch.no_grad()
def scale_by_depth(layers: nn.ModuleList) -> None:
    """Divide the weights of the n-th layer by sqrt(n), counted from 1, before training.

    Source: Zhang, Titov and Sennrich 2019, "Improving Deep Transformer with Depth-Scaled
    Initialization and Merged Attention".
    """
    for depth, layer in enumerate(layers, start=1):
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(depth**-0.5)
