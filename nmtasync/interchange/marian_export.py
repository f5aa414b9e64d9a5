"""Directories that Marian decodes: model.npz, decoder.yml and the SentencePiece models.

Networks with `norm` "pre" have a place there, too, and Marian's validation computes them as we do;
but the decoder of its version 1.12 goes on from another state after the first piece.
Marian takes numbers of pieces from a SentencePiece model as they are, so that rows stay in our
order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nmtasync.interchange.marian_names import (
    BIAS,
    CONFIG,
    DECODER,
    DECODERS,
    ENCODER,
    FIXED,
    NORMS,
    OUTPUT,
    SHARED,
    as_theirs,
    names_of,
)
from nmtasync.interchange.marian_yaml import spell_options
from nmtasync.interchange.network import Network, refuse_unfit
from nmtasync.interchange.npz import write_npz
from nmtasync.interchange.origin import Origin
from nmtasync.interchange.parts import cut_part, parts_of
from nmtasync.models.transformer_layers import feed_forward_width
from nmtasync.run_directory import write_json

_HOLDS = {
    "type": ("transformer",),
    "norm": ("post",),
    "activation": ("relu", "swish"),
    "positions": ("sinusoidal",),
    "decoder": ("attention", "ssru"),
    "zero_start": (True,),
}


def write_marian(network: Network, origin: Origin, directory: Path) -> None:
    """Write a Transformer whose decoder starts with zeros.

    Args:
        network: The network.
        origin: What is told of it.
        directory: An empty one.

    Raises:
        UserError: It is another network.
    """
    refuse_unfit(network.config, "Marian", _HOLDS)
    if network.config.decoder == "ssru":
        refuse_unfit(network.config, "Marian", {"ssru_bias": (False,)})
    options = _options(network)
    write_npz(directory / "model.npz", _tensors(network), {CONFIG: spell_options(options)})
    (directory / "source.spm").write_bytes(network.vocabularies.source.model)
    (directory / "target.spm").write_bytes(network.vocabularies.target.model)
    (directory / "decoder.yml").write_text(spell_options(_DECODING), "utf-8")
    write_json(directory / "origin.json", origin.to_json())


_DECODING: dict[str, Any] = {
    "relative-paths": True,
    "models": ["model.npz"],
    "vocabs": ["source.spm", "target.spm"],
    "beam-size": 5,
    "normalize": 1,
    "mini-batch": 16,
    "maxi-batch": 100,
    "maxi-batch-sort": "src",
}


def _options(network: Network) -> dict[str, Any]:
    config, vocabularies = network.config, network.vocabularies
    return {
        **FIXED,
        "dim-vocabs": [vocabularies.source.size, vocabularies.target.size],
        "dim-emb": config.dimension,
        "dim-rnn": config.dimension,
        "enc-depth": config.encoder_layers,
        "dec-depth": config.decoder_layers,
        "dec-cell": "gru",
        "layer-normalization": False,
        "skip": False,
        "tied-embeddings": config.tied_embeddings == "target",
        "tied-embeddings-all": config.tied_embeddings == "all",
        **DECODERS[config.decoder],
        "transformer-dim-ffn": feed_forward_width(config),
        "transformer-ffn-activation": config.activation,
        "transformer-guided-alignment-layer": "last",
        "transformer-heads": network.heads,
        **NORMS[config.norm],
        "transformer-postprocess-emb": "d",
        "version": "nmtasync",
    }


def _tensors(network: Network) -> dict[str, Tensor]:
    parameters, tied = network.parameters, network.config.tied_embeddings
    tensors = {BIAS: parameters["embeddings.output_bias"][None]}
    if tied == "all":
        tensors[SHARED] = network.target_matrix
    else:
        tensors |= {ENCODER: network.source_matrix, DECODER: network.target_matrix}
    if tied == "none":
        tensors[OUTPUT] = parameters["embeddings.output"].T.contiguous()
    for part in parts_of(network.config):
        weight, bias = cut_part(parameters, part)
        weight_name, bias_name = names_of(part, network.config)
        tensors[weight_name] = as_theirs(part, weight)
        if bias is not None:
            tensors[bias_name] = bias[None].contiguous()
    return tensors
