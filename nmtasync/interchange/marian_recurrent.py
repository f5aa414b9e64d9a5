"""Marian's recurrent network, its `s2s`: what fits it, and where it keeps what ours has.

Source: marian-nmt, src/models/s2s.h, src/rnn/cells.h, src/rnn/attention.h, src/layers/generic.h;
model.npz of Marian 1.12.
Shapes: D dimension of embeddings, R width of the recurrent states, A = 2R width of the attention's
hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtasync.config.schema import ModelConfig
from nmtasync.models.rnn import state_size

HOLDS: dict[str, tuple[Any, ...]] = {
    "encoder_layers": (1,),
    "encoder_cell_depth": (1,),
    "decoder_high_cell_depth": (1,),
    "layer_normalization": ("none",),
    "state_bias": (False,),
    "attention_width": ("source",),
    "scale_embeddings": (False,),
    "zero_start": (True,),
}
"""The values that options of [model] may have."""

FIXED: dict[str, Any] = {
    "enc-type": "bidirectional",
    "enc-cell": "gru",
    "enc-cell-depth": 1,
    "enc-depth": 1,
    "dec-cell": "gru",
    "dec-cell-high-depth": 1,
    "layer-normalization": False,
}
"""Options of Marian's that must have these values for a network to be one of ours."""

_OUTPUT_BIAS = "decoder.output.bias"
_OUTPUT_BIASES = [f"decoder_ff_logit_l1_b{number}" for number in range(3)]
"""Marian has a bias for each input of the deep output, and adds them."""


@dataclass(frozen=True)
class _Share:
    """Parameters of theirs that lie side by side in one of ours.

    Attributes:
        ours: Its name.
        theirs: Their names.
        sizes: How much of ours each of them is.
        width: The other side of the matrix; None where it is a vector.
        axis: Along which they lie.
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...]
    width: int | None = None
    axis: int = 0

    def shape(self, size: int) -> tuple[int, int]:
        """The shape of one of theirs, as it is kept there: [I, O], or [1, O]."""
        if self.width is None:
            return (size, 1) if self.theirs[0].endswith("U_att") else (1, size)
        return (self.width, size) if self.axis == 0 else (size, self.width)


def write_recurrent(config: ModelConfig, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make Marian's parameters of all but embeddings and output projection."""
    tensors = {}
    for share in _shares(config):
        pieces = torch.split(parameters[share.ours], list(share.sizes), share.axis)
        for name, size, piece in zip(share.theirs, share.sizes, pieces, strict=True):
            tensors[name] = piece.t().reshape(share.shape(size)).contiguous()
    bias = parameters[_OUTPUT_BIAS][None]
    first, *others = _OUTPUT_BIASES
    return {**tensors, first: bias, **{name: torch.zeros_like(bias) for name in others}}


def read_recurrent(
    config: ModelConfig, take: Callable[[str, tuple[int, ...]], Tensor]
) -> dict[str, Tensor]:
    """Make our parameters of all but embeddings and output projection.

    Args:
        config: What the network is like.
        take: Reads a parameter of Marian's, which must have a shape.

    Raises:
        ValueError: It hasn't.
    """
    parameters = {}
    for share in _shares(config):
        sized = zip(share.theirs, share.sizes, strict=True)
        pieces = [take(name, share.shape(size)).t() for name, size in sized]
        if share.width is None:
            pieces = [piece.flatten() for piece in pieces]
        parameters[share.ours] = torch.cat(pieces, share.axis)
    biases = [take(name, (1, config.dimension))[0] for name in _OUTPUT_BIASES]
    parameters[_OUTPUT_BIAS] = biases[0] + biases[1] + biases[2]
    return parameters


def _shares(config: ModelConfig) -> Iterator[_Share]:
    """List all but the deep output's bias, in the order of the network."""
    dimension, size = config.dimension, state_size(config)
    for direction, prefix in (("forwards", "encoder_bi"), ("backwards", "encoder_bi_r")):
        yield from _layer(f"encoder.{direction}.0", prefix, dimension, size)
    yield _Share("decoder.initial.weight", ("decoder_ff_state_W",), (size,), 2 * size)
    yield _Share("decoder.initial.bias", ("decoder_ff_state_b",), (size,))
    yield from _conditional(config, "decoder.conditional", size)
    for number in range(config.decoder_layers - 1):
        ours, prefix = f"decoder.upper.{number}", f"decoder_l{number + 2}_cell1"
        yield from _layer(ours, prefix, size, size)
    names = tuple(f"decoder_ff_logit_l1_W{number}" for number in range(3))
    yield _Share("decoder.output.weight", names, (dimension, size, 2 * size), dimension, axis=1)


def _layer(ours: str, prefix: str, reads: int, size: int) -> Iterator[_Share]:
    """List what a `GatedLayer` has, which reads so many elements."""
    yield _gates(f"{ours}.weight_ih_l0", prefix, "W", size, reads)
    yield _gates(f"{ours}.weight_hh_l0", prefix, "U", size, size)
    yield _gates(f"{ours}.bias_ih_l0", prefix, "b", size)


def _conditional(config: ModelConfig, ours: str, size: int) -> Iterator[_Share]:
    yield _gates(f"{ours}.inputs.weight", "decoder_cell1", "W", size, config.dimension)
    yield _gates(f"{ours}.inputs.bias", "decoder_cell1", "b", size)
    yield _gates(f"{ours}.first.weight", "decoder_cell1", "U", size, size)
    yield _Share(f"{ours}.query.weight", ("decoder_W_comb_att",), (2 * size,), size)
    yield _Share(f"{ours}.query.bias", ("decoder_b_att",), (2 * size,))
    yield _Share(f"{ours}.keys.weight", ("decoder_Wc_att",), (2 * size,), 2 * size)
    yield _Share(f"{ours}.energy", ("decoder_U_att",), (2 * size,))
    yield _gates(f"{ours}.gates.weight", "decoder_cell2", "W", size, 2 * size)
    units = [
        "second",
        *(f"transitions.units.{n}" for n in range(config.decoder_base_cell_depth - 2)),
    ]
    for number, unit in enumerate(units, start=2):
        yield _gates(f"{ours}.{unit}.weight", f"decoder_cell{number}", "U", size, size)
        yield _gates(f"{ours}.{unit}.bias", f"decoder_cell{number}", "b", size)


def _gates(ours: str, prefix: str, letter: str, size: int, width: int | None = None) -> _Share:
    """What reset and update gate have, and what the candidate has."""
    return _Share(ours, (f"{prefix}_{letter}", f"{prefix}_{letter}x"), (2 * size, size), width)
