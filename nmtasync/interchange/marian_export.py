"""Directories that Marian decodes: model.npz, decoder.yml and the SentencePiece models.

Marian takes numbers of pieces from a SentencePiece model as they are, so that rows stay in our
order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nmtasync.config.schema import ModelConfig
from nmtasync.interchange import marian_recurrent
from nmtasync.interchange.marian_names import (
    CONFIG,
    DECODER,
    DECODERS,
    ENCODER,
    FIXED,
    FIXED_OF_TRANSFORMERS,
    NORMS,
    OUTPUT,
    SECOND,
    SHARED,
    names_of,
    row_of,
    type_for,
)
from nmtasync.interchange.marian_yaml import spell_options
from nmtasync.interchange.network import Network, refuse_unfit
from nmtasync.interchange.npz import write_npz
from nmtasync.interchange.origin import Origin
from nmtasync.interchange.parts import cut_part, parts_of
from nmtasync.models.rnn import state_size
from nmtasync.models.transformer_layers import feed_forward_width
from nmtasync.run_directory import write_json

_HOLDS = {
    "activation": ("relu", "swish"),
    "positions": ("sinusoidal",),
    "decoder": ("attention", "ssru"),
    "zero_start": (True,),
}


def write_marian(network: Network, origin: Origin, directory: Path) -> None:
    """Write a network whose decoder starts with zeros.

    Args:
        network: The network.
        origin: What is told of it.
        directory: An empty one.

    Raises:
        UserError: Marian has no such network.
    """
    config = network.config
    if config.type == "rnn":
        refuse_unfit(config, "Marian", marian_recurrent.HOLDS, "marian-s2s, which is Marian's")
    else:
        refuse_unfit(config, "Marian", _HOLDS)
    if config.decoder == "ssru":
        refuse_unfit(config, "Marian", {"ssru_bias": (False,)})
    options = _options(network)
    write_npz(directory / "model.npz", _tensors(network), {CONFIG: spell_options(options)})
    (directory / "source.spm").write_bytes(network.vocabularies.source.model)
    (directory / "target.spm").write_bytes(network.vocabularies.target.model)
    (directory / "decoder.yml").write_text(spell_options(_decoding(type_for(config))), "utf-8")
    write_json(directory / "origin.json", origin.to_json())


def _decoding(kind: str) -> dict[str, Any]:
    return {
        "relative-paths": True,
        "models": ["model.npz"],
        "vocabs": ["source.spm", "target.spm"],
        "beam-size": 5,
        "normalize": 1,
        "mini-batch": 1 if kind == SECOND else 16,  # see marian_names
        "maxi-batch": 100,
        "maxi-batch-sort": "src",
    }


def _options(network: Network) -> dict[str, Any]:
    config, vocabularies = network.config, network.vocabularies
    own = _of_recurrent(config) if config.type == "rnn" else _of_transformer(network)
    return {
        "type": type_for(config),
        **FIXED,
        "dim-vocabs": [vocabularies.source.size, vocabularies.target.size],
        "dim-emb": config.dimension,
        "dec-depth": config.decoder_layers,
        "tied-embeddings": config.tied_embeddings == "target",
        "tied-embeddings-all": config.tied_embeddings == "all",
        **own,
        "version": "nmtasync",
    }


def _of_recurrent(config: ModelConfig) -> dict[str, Any]:
    return {
        **marian_recurrent.FIXED,
        "dim-rnn": state_size(config),
        "dec-cell-base-depth": config.decoder_base_cell_depth,
        "skip": config.residual_connections,
    }


def _of_transformer(network: Network) -> dict[str, Any]:
    config = network.config
    return {
        **FIXED_OF_TRANSFORMERS,
        "dim-rnn": config.dimension,
        "enc-depth": config.encoder_layers,
        "dec-cell": "gru",
        "layer-normalization": False,
        "skip": False,
        **DECODERS[config.decoder],
        "transformer-dim-ffn": feed_forward_width(config),
        "transformer-ffn-activation": config.activation,
        "transformer-guided-alignment-layer": "last",
        "transformer-heads": network.heads,
        **NORMS[config.norm],
        "transformer-postprocess-emb": "d",
    }


def _tensors(network: Network) -> dict[str, Tensor]:
    config, parameters, tied = network.config, network.parameters, network.config.tied_embeddings
    output = OUTPUT[config.type]
    tensors = {f"{output}_b": parameters["embeddings.output_bias"][None]}
    if tied == "all":
        tensors[SHARED] = network.target_matrix
    else:
        tensors |= {ENCODER: network.source_matrix, DECODER: network.target_matrix}
    if tied == "none":
        tensors[f"{output}_Wt"] = parameters["embeddings.output"]
    if config.type == "rnn":
        return tensors | marian_recurrent.write_recurrent(config, parameters)
    return tensors | _of_layers(config, parameters)


def _of_layers(config: ModelConfig, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors, kind = {}, type_for(config)
    for part in parts_of(config):
        weight, bias = cut_part(parameters, part)
        weight_name, bias_name = names_of(part, config, kind)
        row = row_of(len(weight), kind)
        tensors[weight_name] = (weight.reshape(row) if part.is_norm else weight.T).contiguous()
        if bias is not None:
            tensors[bias_name] = bias.reshape(row).contiguous()
    return tensors
