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
    dropout: float = option(
        0.1, "Probability with which an activation is dropped.", minimum=0.0, maximum=0.9
    )
    tied_embeddings: str = option(
        "all",
        "Share embeddings: all three matrices, target input with output, or none. "
        "'all' needs a joint vocabulary.",
        choices=("all", "target", "none"),
    )
