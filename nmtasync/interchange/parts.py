"""The layers of a Transformer in the parts that other toolkits keep them in.

Ours computes queries, keys and values by one matrix; theirs have one for each. A part is a weight
and a bias that they keep apart, and says where it is in ours.
Shapes: D dimension, I inputs and O outputs of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.config.schema import ModelConfig
from nmtasync.models.transformer_layers import feed_forward_width

WeightAndBias = tuple[Tensor, Tensor | None]
"""Of a linear layer [O, I] and [O], None where it has none, or of a normalisation [D] and [D]."""


@dataclass(frozen=True)
class Part:
    """A weight and a bias.

    Attributes:
        side: "encoder" or "decoder".
        layer: Its number, from 0 on; None for what follows all layers.
        kind: What it is: "self", "cross" or "rnn" and one of "q", "k", "v", "o", "gates",
            "candidates" and "norm", or "ffn" and "1", "2" or "norm", with a point between; "norm"
            after all layers.
        ours: The module that holds it here.
        place: Which of how many equal shares of that module's outputs it is.
        bias: Our parameter that is its bias, or a module's of which it has the same share; None
            where there is none.
    """

    side: str
    layer: int | None
    kind: str
    ours: str
    place: tuple[int, int]
    bias: str | None

    @property
    def is_norm(self) -> bool:
        """Whether it is of a normalisation."""
        return self.kind.endswith("norm")


def parts_of(config: ModelConfig) -> Iterator[Part]:
    """List the parts of all layers, those of one module of ours in their order."""
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for number in range(layers):
            for kind, module, place in _of_layer(config, side):
                ours = f"{side}.{number}.{module}"
                bias: str | None = f"{ours}.bias"
                if kind.startswith("rnn") and not kind.endswith("norm") and not config.ssru_bias:
                    gates = f"{side}.{number}.attention.gate_bias"
                    bias = gates if kind == "rnn.gates" else None
                yield Part(side, number, kind, ours, place, bias)
        if config.norm == "pre":
            yield Part(side, None, "norm", f"{side}_norm", (0, 1), f"{side}_norm.bias")


def _of_layer(config: ModelConfig, side: str) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """List kind, module and place of each part of a layer."""
    whole = (0, 1)
    if side == "decoder" and config.decoder == "ssru":
        yield "rnn.gates", "attention.inputs", (0, 2)
        yield "rnn.candidates", "attention.inputs", (1, 2)
        yield "rnn.norm", "attention_norm", whole
    else:
        for index, letter in enumerate("qkv"):
            yield f"self.{letter}", "attention.inputs", (index, 3)
        yield "self.o", "attention.output", whole
        yield "self.norm", "attention_norm", whole
    if side == "decoder":
        yield "cross.q", "cross.queries", whole
        yield "cross.k", "cross.keys_values", (0, 2)
        yield "cross.v", "cross.keys_values", (1, 2)
        yield "cross.o", "cross.output", whole
        yield "cross.norm", "cross_norm", whole
    yield "ffn.1", "feed_forward.inner", whole
    yield "ffn.2", "feed_forward.output", whole
    yield "ffn.norm", "feed_forward_norm", whole


def cut_part(parameters: Mapping[str, Tensor], part: Part) -> WeightAndBias:
    """Cut a part out of our parameters."""
    index, number = part.place
    weight = parameters[f"{part.ours}.weight"].chunk(number)[index]
    if part.bias is None:
        return weight, None
    bias = parameters[part.bias]
    return weight, bias.chunk(number)[index] if part.bias == f"{part.ours}.bias" else bias


def join_parts(config: ModelConfig, find: Callable[[Part], WeightAndBias]) -> dict[str, Tensor]:
    """Make our parameters of all layers from their parts."""
    shares: dict[str, list[Tensor]] = {}
    for part in parts_of(config):
        weight, bias = find(part)
        shares.setdefault(f"{part.ours}.weight", []).append(weight)
        if part.bias is not None:
            assert bias is not None
            shares.setdefault(part.bias, []).append(bias)
    return {name: torch.cat(tensors) for name, tensors in shares.items()}


def shape_of(config: ModelConfig, part: Part) -> tuple[int, ...]:
    """The shape of a part's weight: [O, I], or [D] of a normalisation."""
    dimension, inside = config.dimension, feed_forward_width(config)
    if part.is_norm:
        return (dimension,)
    return {"ffn.1": (inside, dimension), "ffn.2": (dimension, inside)}.get(
        part.kind, (dimension, dimension)
    )
