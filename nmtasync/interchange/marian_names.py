"""How Marian names what a Transformer of its has, and the options that say what it is like.

Marian 1.12 has two implementations of the Transformer, with other names of the same parameters.
The first one's decoder goes wrong where layers are normalised before self-attention: from the
second piece on it looks at earlier states that are not normalised. So such networks are for the
second, `transformer-new`, which on CPUs lets sentences see the padding of others in their batch;
one sentence at a time is computed right.

Source: marian-nmt, src/models/transformer.h, src/layers_new/transformer.h; model.npz of Marian
1.12.
"""

from __future__ import annotations

from typing import Any

from nmtasync.config.schema import ModelConfig
from nmtasync.interchange.parts import Part

CONFIG = "special:model.yml"
SHARED, ENCODER, DECODER = "Wemb", "encoder_Wemb", "decoder_Wemb"
OUTPUT = {"transformer": "decoder_ff_logit_out", "rnn": "decoder_ff_logit_l2"}
"""What the names of the output projection begin with, by `model.type`."""

FIRST, SECOND, RECURRENT = "transformer", "transformer-new", "s2s"
"""Its types of networks."""

FIXED: dict[str, Any] = {
    "factors-dim-emb": 0,
    "input-types": [],
    "lemma-dim-emb": 0,
    "output-omit-bias": False,
    "right-left": False,
    "tied-embeddings-src": False,
    "ulr": False,
}
"""Options that must have these values for a network of any type to be one of ours."""

FIXED_OF_TRANSFORMERS: dict[str, Any] = {
    "transformer-attention-mask": "default",
    "transformer-decoder-dim-ffn": 0,
    "transformer-decoder-ffn-depth": 0,
    "transformer-disable-position-embeddings": False,
    "transformer-ffn-depth": 2,
    "transformer-no-affine": False,
    "transformer-no-bias": False,
    "transformer-no-projection": False,
    "transformer-pool": False,
    "transformer-rnn-projection": False,
    "transformer-tied-layers": [],
    "transformer-train-position-embeddings": False,
}
"""Likewise of Transformers."""

DECODERS = {
    "attention": {"transformer-decoder-autoreg": "self-attention"},
    "ssru": {"transformer-decoder-autoreg": "rnn", "dec-cell": "ssru"},
}
"""What sees the earlier pieces of the target, by `model.decoder`."""

NORMS = {
    "post": {
        "transformer-preprocess": "",
        "transformer-postprocess": "dan",
        "transformer-postprocess-top": "",
    },
    "pre": {
        "transformer-preprocess": "n",
        "transformer-postprocess": "da",
        "transformer-postprocess-top": "n",
    },
}
"""Where it normalises, by `model.norm`; the letter d, dropout, may be there or not."""

_PLACE = {
    "encoder": "TransformerBatchEncoder->encoder",
    "decoder": "TransformerBatchDecoder->decoder",
}
_LAYER = {
    "encoder": "TransformerEncoderLayer",
    "decoder": "TransformerDecoderLayerWithCrossAttention",
}
_BLOCKS = {
    ("encoder", "self"): "selfAttentionBlock",
    ("decoder", "self"): "autoRegressiveBlock",
    ("decoder", "cross"): "crossAttentionBlock",
    ("encoder", "ffn"): "filterBlock",
    ("decoder", "ffn"): "filterBlock",
}


def type_for(config: ModelConfig) -> str:
    """Choose the type of network that a network of ours is there."""
    if config.type == "rnn":
        return RECURRENT
    return SECOND if config.norm == "pre" and config.decoder == "attention" else FIRST


def names_of(part: Part, config: ModelConfig, kind: str) -> tuple[str, str]:
    """The names of a part's weight and of its bias in one of its Transformers."""
    return _names_in_second(part, config) if kind == SECOND else _names_in_first(part, config)


def _names_in_first(part: Part, config: ModelConfig) -> tuple[str, str]:
    if part.layer is None:
        return f"{part.side}_top_ln_scale", f"{part.side}_top_ln_bias"
    place = f"{part.side}_l{part.layer + 1}"
    group, _, kind = part.kind.partition(".")
    group = {"cross": "context"}.get(group, group)
    if part.is_norm:
        pre = config.norm == "pre"
        of_rnn = "rnn" if pre else "rnn_ffn"
        inner = {"ffn": "ffn_ffn", "rnn": of_rnn}.get(group, f"{group}_Wo")
        suffix = "_pre" if pre else ""
        return f"{place}_{inner}_ln_scale{suffix}", f"{place}_{inner}_ln_bias{suffix}"
    letter = {"gates": "f", "candidates": ""}.get(kind, kind)
    return f"{place}_{group}_W{letter}", f"{place}_{group}_b{letter}"


def _names_in_second(part: Part, config: ModelConfig) -> tuple[str, str]:
    place = _PLACE[part.side]
    group, _, kind = part.kind.partition(".")
    if part.layer is None:
        place += "->postprocessor->norm"
    else:
        place += f"->layers->at({part.layer})->as<marian::nn::{_LAYER[part.side]}>()"
        place += f"->{_BLOCKS[part.side, group]}"
        if part.is_norm:
            place += f"->{config.norm}processor->norm"
        elif group == "ffn":
            place += f"->layers->{_filter_layer(kind, config.activation)}"
        else:
            place += f"->{group}Attention->{kind}Proj"
    return f"{place}->weight", f"{place}->bias"


def _filter_layer(kind: str, activation: str) -> str:
    """The first layer has activation and dropout inside with ReLU, else they stand after it."""
    fused = activation == "relu"
    if kind == "1":
        return f"at(0)->as<marian::nn::{'LinearReluDropout' if fused else 'Linear'}>()"
    return f"at({1 if fused else 3})->as<marian::nn::Linear>()"


def row_of(size: int, kind: str) -> tuple[int, ...]:
    """The shape that a vector has in one of its Transformers; matrices are transposed in both."""
    return (size,) if kind == SECOND else (1, size)
