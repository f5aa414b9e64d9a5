"""How Marian names what a Transformer of its has, and the options that say what it is like.

Source: marian-nmt, src/models/transformer.h and transformer_factory; model.npz of Marian 1.12.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nmtasync.config.schema import ModelConfig
from nmtasync.interchange.parts import Part

CONFIG = "special:model.yml"
SHARED, ENCODER, DECODER = "Wemb", "encoder_Wemb", "decoder_Wemb"
OUTPUT, BIAS = "decoder_ff_logit_out_W", "decoder_ff_logit_out_b"

FIXED: dict[str, Any] = {
    "type": "transformer",
    "factors-dim-emb": 0,
    "input-types": [],
    "lemma-dim-emb": 0,
    "output-omit-bias": False,
    "right-left": False,
    "tied-embeddings-src": False,
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
    "ulr": False,
}
"""Options that must have these values for a network to be one of ours."""

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


def names_of(part: Part, config: ModelConfig) -> tuple[str, str]:
    """The names of a part's weight, which is transposed there, and of its bias, [1, O]."""
    if part.layer is None:
        return f"{part.side}_top_ln_scale", f"{part.side}_top_ln_bias"
    place = f"{part.side}_l{part.layer + 1}"
    group, _, kind = part.kind.partition(".")
    group = {"cross": "context"}.get(group, group)
    if part.is_norm:
        inner = {"ffn": "ffn_ffn", "rnn": "rnn_ffn"}.get(group, f"{group}_Wo")
        suffix = "_pre" if config.norm == "pre" else ""
        return f"{place}_{inner}_ln_scale{suffix}", f"{place}_{inner}_ln_bias{suffix}"
    letter = {"gates": "f", "candidates": ""}.get(kind, kind)
    return f"{place}_{group}_W{letter}", f"{place}_{group}_b{letter}"


def as_theirs(part: Part, weight: Tensor) -> Tensor:
    """Bring a part's weight in Marian's shape."""
    return (weight[None] if part.is_norm else weight.T).contiguous()
