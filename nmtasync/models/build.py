"""From the configuration to a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nmtasync.config.schema import ModelConfig
from nmtasync.errors import UserError
from nmtasync.models.embeddings import Embeddings
from nmtasync.models.positions import (
    LearnedPositions,
    Positions,
    RotaryPositions,
    SinusoidalPositions,
)
from nmtasync.models.rnn import RecurrentNetwork, RecurrentOptions
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.transformer import Transformer
from nmtasync.models.transformer_layers import LayerOptions


@dataclass(frozen=True)
class ModelSpec:
    """All that it takes to build a network, also in another process.

    Attributes:
        config: What to build.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
    """

    config: ModelConfig
    source_size: int
    target_size: int

    def build(self) -> SequenceToSequence:
        """Build the network, its parameters drawn from torch's global generator."""
        return build_model(self.config, self.source_size, self.target_size)


def build_model(config: ModelConfig, source_size: int, target_size: int) -> SequenceToSequence:
    """Build a network, its parameters drawn from torch's global generator.

    Args:
        config: What to build.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.

    Raises:
        UserError: The sizes don't fit each other.
    """
    if config.tied_embeddings == "all" and source_size != target_size:
        raise UserError(
            f"is 'all', but the vocabularies have {source_size} and {target_size} pieces",
            where="model.tied_embeddings",
            remedy="set it to 'target' or 'none'",
        )
    embeddings = Embeddings(
        source_size,
        target_size,
        config.dimension,
        config.tied_embeddings,
        dropout_source_words=config.dropout_source_words,
        dropout_target_words=config.dropout_target_words,
    )
    match config.type:
        case "transformer":
            return _build_transformer(config, embeddings)
        case "rnn":
            return _build_rnn(config, embeddings)
        case unknown:
            raise AssertionError(unknown)


def _build_transformer(config: ModelConfig, embeddings: Embeddings) -> SequenceToSequence:
    heads = config.heads or max(1, config.dimension // 64)
    if config.dimension % heads:
        raise UserError(
            f"{config.dimension} can't be divided among {heads} attention heads",
            where="model.dimension",
            remedy="choose a multiple of model.heads",
        )
    rotary, positions = _build_positions(config, heads)
    inside = config.feed_forward_dropout
    options = LayerOptions(
        dimension=config.dimension,
        heads=heads,
        feed_forward=config.feed_forward or _usual_feed_forward(config),
        activation=config.activation,
        norm=config.norm,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        feed_forward_dropout=config.dropout if inside is None else inside,
        rotary=rotary,
    )
    return Transformer(
        embeddings,
        options,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        positions=positions,
        recurrent_decoder=config.decoder == "ssru",
        depth_scaling=config.depth_scaling,
    )


def _usual_feed_forward(config: ModelConfig) -> int:
    """Choose the width that gives all activations about as many parameters."""
    if config.activation == "swiglu":  # three matrices, not two
        return 8 * math.ceil(config.dimension / 3)
    return 4 * config.dimension


def _build_positions(
    config: ModelConfig, heads: int
) -> tuple[RotaryPositions | None, Positions | None]:
    """Build the positions: for queries and keys, or for embeddings."""
    match config.positions:
        case "sinusoidal":
            if config.dimension % 2:
                raise UserError("must be even", where="model.dimension")
            return None, SinusoidalPositions(config.dimension)
        case "learned":
            return None, LearnedPositions(config.max_positions, config.dimension)
        case "rotary":
            width = config.dimension // heads
            if width % 2:
                raise UserError(
                    f"{config.dimension} among {heads} attention heads is {width} for each, but "
                    "rotary positions turn pairs of elements",
                    where="model.dimension",
                    remedy="choose an even multiple of model.heads",
                )
            return RotaryPositions(width), None
        case unknown:
            raise AssertionError(unknown)


def _build_rnn(config: ModelConfig, embeddings: Embeddings) -> SequenceToSequence:
    options = RecurrentOptions(
        dimension=config.dimension,
        state_size=config.state_dimension or config.dimension,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_depth=config.encoder_cell_depth,
        decoder_base_depth=config.decoder_base_cell_depth,
        decoder_high_depth=config.decoder_high_cell_depth,
        normalised_layers=config.layer_normalization in ("layers", "both"),
        normalised_cells=config.layer_normalization in ("cells", "both"),
        residual=config.residual_connections,
        dropout=config.dropout,
        variational_dropout=config.variational_dropout,
        state_dropout=config.dropout_rnn,
    )
    return RecurrentNetwork(embeddings, options)
