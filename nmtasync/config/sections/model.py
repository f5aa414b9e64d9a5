"""Options of the section `model`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import has, lacks, option, probability

MAX_WIDTH = 100000
"""Of any layer: far more than anybody uses, and no number that a machine fails on."""

_TRANSFORMER = has("model.type", "transformer")
_RNN = has("model.type", "rnn")

_of_transformer = partial(option, only_if=(_TRANSFORMER,))
_of_rnn = partial(option, only_if=(_RNN,))


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    type: str = option(
        "transformer",
        "Transformer, or GRU encoder-decoder with attention.",
        choices=("transformer", "rnn"),
    )
    preset: str | None = option(
        None,
        "Well-known sizes of a Transformer: sets dimension, feed_forward, heads, encoder_layers, "
        "decoder_layers and dropout where the same file or command does not set them; marian is "
        "Marian's base, which all formats of `nmtasync export` hold, and marian-s2s its recurrent "
        "network.",
        choices=("tiny", "small", "base", "big", "marian", "marian-s2s"),
        only_if=(_TRANSFORMER | has("model.preset", "marian-s2s"),),
    )
    dimension: int = option(
        256,
        "Width of embeddings and of Transformer layers.",
        unit="elements",
        minimum=2,
        maximum=MAX_WIDTH,
    )
    encoder_layers: int = option(3, "Layers of the encoder.", minimum=1, maximum=1000)
    decoder_layers: int = option(3, "Layers of the decoder.", minimum=1, maximum=1000)
    feed_forward: int | None = _of_transformer(
        None,
        "Width inside feed-forward layers; 'none' means four times the dimension, with swiglu "
        "two thirds of that.",
        unit="elements",
        minimum=1,
        maximum=MAX_WIDTH,
    )
    heads: int | None = _of_transformer(
        None,
        "Attention heads; 'none' means one for each 64 elements of the dimension.",
        minimum=1,
        maximum=MAX_WIDTH,
    )
    norm: str = _of_transformer(
        "pre",
        "Normalise the input of each sublayer, which trains more easily, or its sum with the "
        "output, as the first Transformer did.",
        choices=("pre", "post"),
    )
    activation: str = _of_transformer(
        "relu",
        "Inside feed-forward layers; swiglu has gates.",
        choices=("relu", "gelu", "swish", "swiglu"),
    )
    positions: str = _of_transformer(
        "sinusoidal",
        "How the order of pieces is told: waves or parameters that are added to embeddings, or "
        "rotations of queries and keys in self-attention. sinusoidal is as Marian has it, "
        "sinusoidal-paper as Hugging Face has it.",
        choices=("sinusoidal", "sinusoidal-paper", "learned", "rotary"),
    )
    max_positions: int = option(
        512,
        "The longest sentence that learned positions allow, its end counted.",
        unit="pieces",
        minimum=2,
        maximum=MAX_WIDTH,
        only_if=(has("model.positions", "learned"),),
    )
    decoder: str = _of_transformer(
        "attention",
        "What sees the earlier pieces of the target: self-attention, or the simpler simple "
        "recurrent unit, whose steps are cheaper.",
        choices=("attention", "ssru"),
    )
    ssru_bias: bool = option(
        True,
        "Add a bias to what enters the cells of the simpler simple recurrent unit; the paper and "
        "Marian have none.",
        only_if=(has("model.decoder", "ssru"),),
    )
    depth_scaling: bool = _of_transformer(
        False,
        "Begin with weights of the n-th layer of each side divided by the square root of n: deep "
        "encoders, above all with norm = post, may not learn otherwise.",
    )
    state_dimension: int | None = _of_rnn(
        None,
        "Width of the recurrent states, in each direction; 'none' means the dimension.",
        unit="elements",
        minimum=1,
        maximum=MAX_WIDTH,
    )
    state_bias: bool = _of_rnn(
        True,
        "Add a bias to the state's product inside the reset gate, beside that of the input's, in "
        "gated units that read pieces or layers, as cuDNN does; Marian and Nematus do not.",
    )
    attention_width: str = _of_rnn(
        "state",
        "Width of the attention's hidden layer: that of the decoder's states, or that of the "
        "encoder's, which is twice as much, as Marian has it.",
        choices=("state", "source"),
    )
    scale_embeddings: bool = _of_rnn(
        True,
        "Multiply embeddings by the square root of the dimension, as Transformers do; Marian's "
        "recurrent networks do not.",
    )
    encoder_cell_depth: int = _of_rnn(
        1,
        "Gated units that a state goes through at each piece, in layers of the encoder; more than "
        "one is deep transition.",
        minimum=1,
        maximum=100,
    )
    decoder_base_cell_depth: int = _of_rnn(
        2,
        "Gated units at each piece in the first layer of the decoder; the attention is after the "
        "first of them.",
        minimum=2,
        maximum=100,
    )
    decoder_high_cell_depth: int = option(
        1,
        "Gated units at each piece in the other layers of the decoder.",
        minimum=1,
        maximum=100,
        only_if=(_RNN, lacks("model.decoder_layers", 1)),
    )
    residual_connections: bool = option(
        True,
        "Add the input of a layer to its output, from the second layer on.",
        only_if=(_RNN, lacks("model.encoder_layers", 1) | lacks("model.decoder_layers", 1)),
    )
    layer_normalization: str = _of_rnn(
        "layers",
        "Where to normalise activations: after layers, inside recurrent cells at each matrix "
        "product, both, or nowhere.",
        choices=("layers", "cells", "both", "none"),
    )
    dropout: float = probability(0.1, "Probability with which an activation is dropped.")
    attention_dropout: float = probability(
        0.0,
        "Probability with which a weight of an attention is dropped.",
        only_if=(_TRANSFORMER,),
    )
    feed_forward_dropout: float | None = probability(
        None,
        "Probability with which an activation inside feed-forward layers is dropped; 'none' "
        "means that of dropout.",
        only_if=(_TRANSFORMER,),
    )
    variational_dropout: bool = option(
        False,
        "Let dropout drop the same elements at all pieces of a sentence.",
        only_if=(_RNN, lacks("model.dropout", 0)),
    )
    dropout_rnn: float = probability(
        0.0,
        "Probability with which an element of a recurrent state is dropped inside a cell, the same "
        "at all pieces of a sentence.",
        only_if=(_RNN,),
    )
    dropout_source_words: float = probability(
        0.0,
        "Probability with which the whole embedding of a source piece is dropped.",
    )
    dropout_target_words: float = probability(
        0.0,
        "Probability with which the whole embedding of a target piece is dropped, where the "
        "decoder reads it.",
    )
    zero_start: bool = option(
        False,
        "Let the decoder begin with zeros in place of the embedding of the beginning of sentence, "
        "as Marian does.",
    )
    tied_embeddings: str = option(
        "all",
        "Share embeddings: all three matrices, target input with output, or none. "
        "'all' needs a joint vocabulary.",
        choices=("all", "target", "none"),
    )
