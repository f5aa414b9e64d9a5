"""Well-known networks, each a name for several settings.

A preset is a shorthand in the place where it stands; RUN/config.toml holds the sizes that came of
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _sizes(
    dimension: int, feed_forward: int, heads: int, layers: int, dropout: float
) -> dict[str, Any]:
    return {
        "model.dimension": dimension,
        "model.feed_forward": feed_forward,
        "model.heads": heads,
        "model.encoder_layers": layers,
        "model.decoder_layers": layers,
        "model.dropout": dropout,
    }


PRESETS = {
    "tiny": _sizes(128, 256, 4, 4, 0.3),
    "small": _sizes(256, 1024, 4, 3, 0.1),
    "base": _sizes(512, 2048, 8, 6, 0.1),
    "big": _sizes(1024, 4096, 16, 6, 0.3),
    "marian": {
        **_sizes(512, 2048, 8, 6, 0.1),
        "model.norm": "post",
        "model.activation": "relu",
        "model.positions": "sinusoidal",
        "model.decoder": "attention",
        "model.zero_start": True,
    },
    "marian-s2s": {
        "model.type": "rnn",
        "model.dimension": 512,
        "model.state_dimension": 1024,
        "model.encoder_layers": 1,
        "model.decoder_layers": 1,
        "model.layer_normalization": "none",
        "model.state_bias": False,
        "model.attention_width": "source",
        "model.scale_embeddings": False,
        "model.zero_start": True,
    },
}
"""The settings behind each name. "base" and "big" are those of Vaswani et al. 2017, table 3; "tiny"
is for corpora of some ten thousand pairs; "small" is what holds by default; "marian" is "base" as
Marian's --task transformer-base has it, "marian-s2s" what its --type s2s is by default."""


def with_preset(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Put the settings that a layer's preset stands for under those that the layer names.

    A layer is what one place says: a file, or a command line. So a preset gives way to what
    stands beside it, and takes the place of what earlier layers said. Of RUN/config.toml, which
    names every option, nothing is replaced.
    """
    return {**PRESETS.get(layer.get("model.preset") or "", {}), **layer}
