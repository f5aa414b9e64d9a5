"""Options of the section `model`."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.option import option


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    type: str = option(
        "transformer",
        "Pre-norm Transformer, or GRU encoder-decoder with attention.",
        choices=("transformer", "rnn"),
    )
    dimension: int = option(
        256, "Width of embeddings and of Transformer layers.", unit="elements", minimum=2
    )
    encoder_layers: int = option(3, "Layers of the encoder.", minimum=1)
    decoder_layers: int = option(3, "Layers of the decoder.", minimum=1)
    feed_forward: int | None = option(
        None,
        "Width inside feed-forward layers; 'none' means four times the dimension.",
        unit="elements",
        minimum=1,
        only_if=("model.type", "transformer"),
    )
    heads: int | None = option(
        None,
        "Attention heads; 'none' means one for each 64 elements of the dimension.",
        minimum=1,
        only_if=("model.type", "transformer"),
    )
    state_dimension: int | None = option(
        None,
        "Width of the recurrent states, in each direction; 'none' means the dimension.",
        unit="elements",
        minimum=1,
        only_if=("model.type", "rnn"),
    )
    encoder_cell_depth: int = option(
        1,
        "Gated units that a state goes through at each piece, in layers of the encoder; more than "
        "one is deep transition.",
        minimum=1,
        only_if=("model.type", "rnn"),
    )
    decoder_base_cell_depth: int = option(
        2,
        "Gated units at each piece in the first layer of the decoder; the attention is after the "
        "first of them.",
        minimum=2,
        only_if=("model.type", "rnn"),
    )
    decoder_high_cell_depth: int = option(
        1,
        "Gated units at each piece in the other layers of the decoder.",
        minimum=1,
        only_if=("model.type", "rnn"),
    )
    residual_connections: bool = option(
        True,
        "Add the input of a layer to its output, from the second layer on.",
        only_if=("model.type", "rnn"),
    )
    layer_normalization: str = option(
        "layers",
        "Where to normalise activations: after layers, inside recurrent cells at each matrix "
        "product, both, or nowhere.",
        choices=("layers", "cells", "both", "none"),
        only_if=("model.type", "rnn"),
    )
    dropout: float = option(
        0.1, "Probability with which an activation is dropped.", minimum=0.0, maximum=0.9
    )
    variational_dropout: bool = option(
        False,
        "Let dropout drop the same elements at all pieces of a sentence.",
        only_if=("model.type", "rnn"),
    )
    dropout_rnn: float = option(
        0.0,
        "Probability with which an element of a recurrent state is dropped inside a cell, the same "
        "at all pieces of a sentence.",
        minimum=0.0,
        maximum=0.9,
        only_if=("model.type", "rnn"),
    )
    dropout_source_words: float = option(
        0.0,
        "Probability with which the whole embedding of a source piece is dropped.",
        minimum=0.0,
        maximum=0.9,
    )
    dropout_target_words: float = option(
        0.0,
        "Probability with which the whole embedding of a target piece is dropped, where the "
        "decoder reads it.",
        minimum=0.0,
        maximum=0.9,
    )
    tied_embeddings: str = option(
        "all",
        "Share embeddings: all three matrices, target input with output, or none. "
        "'all' needs a joint vocabulary.",
        choices=("all", "target", "none"),
    )
