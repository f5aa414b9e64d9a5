"""Networks of every kind, tiny, and sentences for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch

from nmtasync.config.schema import ModelConfig
from nmtasync.models.sequence_to_sequence import SequenceToSequence

SIZE = 23
TINY = ModelConfig(dimension=8, encoder_layers=2, decoder_layers=2, heads=2, feed_forward=12)
TINY_RNN = dataclasses.replace(TINY, type="rnn", heads=None, feed_forward=None, state_dimension=6)
PAPER_RNN = dataclasses.replace(
    TINY_RNN, encoder_layers=1, decoder_layers=1, layer_normalization="none"
)
DEEP_RNN = dataclasses.replace(
    TINY_RNN,
    encoder_cell_depth=2,
    decoder_base_cell_depth=4,
    decoder_high_cell_depth=2,
    residual_connections=False,
    layer_normalization="cells",
    variational_dropout=True,
    dropout_rnn=0.2,
)
MARIANS_RNN = dataclasses.replace(
    PAPER_RNN,
    decoder_layers=2,
    state_bias=False,
    attention_width="source",
    scale_embeddings=False,
    zero_start=True,
)
MODELS = {
    "transformer": TINY,
    "post-norm, learned positions": dataclasses.replace(
        TINY, norm="post", activation="gelu", positions="learned", max_positions=7
    ),
    "rotary": dataclasses.replace(TINY, positions="rotary", activation="swiglu"),
    "zero start, swish": dataclasses.replace(TINY, zero_start=True, activation="swish"),
    "deep encoder, SSRU": dataclasses.replace(
        TINY, decoder="ssru", encoder_layers=3, decoder_layers=1
    ),
    "SSRU as the paper has it": dataclasses.replace(TINY, decoder="ssru", ssru_bias=False),
    "post-norm, rotary, SSRU": dataclasses.replace(
        TINY, decoder="ssru", norm="post", positions="rotary", attention_dropout=0.1
    ),
    "rnn": TINY_RNN,
    "rnn, paper's": PAPER_RNN,
    "rnn, deep": DEEP_RNN,
    "rnn, Marian's": MARIANS_RNN,
}


def sentences(lengths: list[int], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, SIZE, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids * mask, mask


def slopes(
    model: SequenceToSequence, loss: Callable[[], torch.Tensor]
) -> Iterator[tuple[str, float, float]]:
    """Of each parameter with a gradient: its name, and the slope of the loss along a direction,
    by finite differences and by that gradient."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            above = loss()
            parameter.add_(direction, alpha=-2e-6)
            below = loss()
            parameter.add_(direction, alpha=1e-6)
        yield name, float((above - below) / 2e-6), float((parameter.grad * direction).sum())
