"""CTranslate2's directories, written by its own specification classes.

Source: the classes of ctranslate2.specs, whose attributes name the variables of model.bin.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nmtasync.data.vocabulary import BOS, EOS, UNK
from nmtasync.interchange.installed import require
from nmtasync.interchange.network import Affine, Network, refuse_unfit
from nmtasync.models.attention import SelfAttention
from nmtasync.models.transformer import Transformer

if TYPE_CHECKING:
    from nmtasync.interchange.origin import Origin

_HOLDS = {"type": ("transformer",), "decoder": ("attention",)}
_LONGEST = 2048
"""Positions that are written: more than the pieces of any line that is translated, and of its
translation."""


def write_ctranslate2(
    network: Network, origin: Origin, directory: Path, quantization: str | None = None
) -> None:
    """Write a Transformer with attention in its decoder.

    Args:
        network: The network.
        origin: What is told of it.
        directory: An empty one.
        quantization: One of `formats.QUANTIZATIONS`; None keeps weights as they are, in float32.

    Raises:
        UserError: It is another network, or CTranslate2 is not installed.
    """
    refuse_unfit(network.config, "CTranslate2", _HOLDS)
    specs = require("ctranslate2.specs", "ctranslate2")
    spec = specs.TransformerSpec(*_empty_sides(network, specs))
    _Writer(network, spec).write()
    source, target = (
        v.pieces() for v in (network.vocabularies.source, network.vocabularies.target)
    )
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    config = spec.config
    config.unk_token, config.bos_token, config.eos_token = (target[i] for i in (UNK, BOS, EOS))
    config.decoder_start_token = target[BOS]
    config.add_source_bos, config.add_source_eos = False, True
    config.add_attribute("origin", origin.to_json())
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(directory))
    (directory / "source.spm").write_bytes(network.vocabularies.source.model)
    (directory / "target.spm").write_bytes(network.vocabularies.target.model)


def _empty_sides(network: Network, specs: Any) -> tuple[Any, Any]:
    """Build the specifications of encoder and decoder, without parameters."""
    config, activations = network.config, specs.common_spec.Activation
    activation = {
        "relu": activations.RELU,
        "gelu": activations.GELU,
        "swish": activations.SWISH,
        "swiglu": activations.SWISH,
    }[config.activation]
    options: dict[str, Any] = {
        "pre_norm": config.norm == "pre",
        "activation": activation,
        "ffn_glu": config.activation == "swiglu",
    }
    if config.positions == "rotary":
        options |= {"rotary_dim": 0, "rotary_interleave": False}  # of all elements, in halves
    encoder = specs.transformer_spec.TransformerEncoderSpec(
        config.encoder_layers, network.heads, **options
    )
    if config.positions == "rotary":
        del encoder.position_encodings
    decoder = specs.transformer_spec.TransformerDecoderSpec(
        config.decoder_layers, network.heads, **options
    )
    return encoder, decoder


class _Writer:
    """Puts a network's parameters into a specification."""

    def __init__(self, network: Network, spec: Any) -> None:
        assert isinstance(network.model, Transformer)
        self.network, self.model, self.spec = network, network.model, spec
        self.glu = network.config.activation == "swiglu"

    def write(self) -> None:
        """Fill all of it."""
        network, encoder, decoder = self.network, self.spec.encoder, self.spec.decoder
        embeddings = self.model.embeddings
        decoder.start_from_zero_embedding = network.config.zero_start
        self._side(encoder, encoder.embeddings[0], network.source_matrix, "encoder")
        self._side(decoder, decoder.embeddings, network.target_matrix, "decoder")
        output = embeddings.output_weight.detach(), embeddings.output_bias.detach()
        _linear(decoder.projection, Affine(*output))

    def _side(self, spec: Any, embeddings: Any, matrix: Tensor, name: str) -> None:
        embeddings.weight = matrix.numpy()
        positions = self.network.positions(_LONGEST)
        if positions is not None:
            spec.position_encodings.encodings = positions.numpy()
        if self.network.config.norm == "pre":
            self._norm(spec.layer_norm, f"{name}_norm")
        for number, layer in enumerate(spec.layer):
            self._layer(layer, f"{name}.{number}")

    def _layer(self, spec: Any, name: str) -> None:
        network = self.network
        attention = self.model.get_submodule(f"{name}.attention")
        assert isinstance(attention, SelfAttention)
        _linear(spec.self_attention.linear[0], network.affine(f"{name}.attention.inputs"))
        _linear(spec.self_attention.linear[1], network.affine(f"{name}.attention.output"))
        self._norm(spec.self_attention.layer_norm, f"{name}.attention_norm")
        if hasattr(spec, "attention"):
            parts = ("queries", "keys_values", "output")
            for linear, part in zip(spec.attention.linear, parts, strict=True):
                _linear(linear, network.affine(f"{name}.cross.{part}"))
            self._norm(spec.attention.layer_norm, f"{name}.cross_norm")
        self._norm(spec.ffn.layer_norm, f"{name}.feed_forward_norm")
        inner = network.affine(f"{name}.feed_forward.inner")
        if self.glu:
            gates, values = inner.parts([len(inner.bias) // 2] * 2)
            _linear(spec.ffn.linear_0, gates)
            _linear(spec.ffn.linear_0_noact, values)
        else:
            _linear(spec.ffn.linear_0, inner)
        _linear(spec.ffn.linear_1, network.affine(f"{name}.feed_forward.output"))

    def _norm(self, spec: Any, name: str) -> None:
        norm = self.network.affine(name)
        spec.gamma, spec.beta = norm.weight.numpy(), norm.bias.numpy()


def _linear(spec: Any, layer: Affine) -> None:
    spec.weight = layer.weight.contiguous().numpy()
    spec.bias = layer.bias.contiguous().numpy()
