"""How Hugging Face's MarianMTModel names what it has.

Source: transformers, models/marian: configuration_marian.py and modeling_marian.py.
"""

from __future__ import annotations

from nmtasync.interchange.parts import Part

ZERO = "<zero>"
"""The piece that a decoder which starts with zeros starts with there; it is never predicted."""

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}
"""Ours by theirs."""

POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
SHARED, ENCODER, DECODER, OUTPUT = (
    "model.shared.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)
BIAS = "final_logits_bias"

_KINDS = {
    "self.q": "self_attn.q_proj",
    "self.k": "self_attn.k_proj",
    "self.v": "self_attn.v_proj",
    "self.o": "self_attn.out_proj",
    "self.norm": "self_attn_layer_norm",
    "cross.q": "encoder_attn.q_proj",
    "cross.k": "encoder_attn.k_proj",
    "cross.v": "encoder_attn.v_proj",
    "cross.o": "encoder_attn.out_proj",
    "cross.norm": "encoder_attn_layer_norm",
    "ffn.1": "fc1",
    "ffn.2": "fc2",
    "ffn.norm": "final_layer_norm",
}


def name_of(part: Part) -> str:
    """The module that holds a part, without ".weight" or ".bias"."""
    return f"model.{part.side}.layers.{part.layer}.{_KINDS[part.kind]}"
