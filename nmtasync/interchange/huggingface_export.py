"""Directories that Hugging Face's transformers loads as a MarianMTModel with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nmtasync.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from nmtasync.interchange.huggingface_names import (
    BIAS,
    DECODER,
    ENCODER,
    OUTPUT,
    POSITIONS,
    SHARED,
    ZERO,
    name_of,
)
from nmtasync.interchange.model_card import model_card
from nmtasync.interchange.network import Network, refuse_unfit
from nmtasync.interchange.origin import Origin
from nmtasync.interchange.parts import cut_part, parts_of
from nmtasync.interchange.renumber import word_as_tag
from nmtasync.interchange.silent import with_silent_bias, with_silent_row
from nmtasync.models.transformer_layers import feed_forward_dropout, feed_forward_width
from nmtasync.preprocessing.learn_vocabulary import CONTROL_NAMES
from nmtasync.run_directory import write_json

_HOLDS = {
    "type": ("transformer",),
    "norm": ("post",),
    "activation": ("relu", "gelu", "swish"),
    "positions": ("sinusoidal", "sinusoidal-paper", "learned"),
    "decoder": ("attention",),
}
_NUM_POSITIONS = 1024
_LONGEST = 512


def write_huggingface(network: Network, origin: Origin, directory: Path) -> None:
    """Write a Transformer that is normalised after its sublayers.

    Args:
        network: The network.
        origin: What is told of it, in a model card.
        directory: An empty one.

    Raises:
        UserError: It is another network.
    """
    refuse_unfit(network.config, "Hugging Face's MarianMTModel", _HOLDS)
    tensors = _tensors(network)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = _config(network, len(tensors[BIAS][0]), len(tensors[POSITIONS[0]]))
    write_json(directory / "config.json", config)
    silent = [PAD, UNK, BOS, *range(network.vocabularies.target.size, len(tensors[BIAS][0]))]
    write_json(
        directory / "generation_config.json",
        {
            "bad_words_ids": [[piece] for piece in silent],
            **_CONTROL_IDS,
            "forced_eos_token_id": EOS,
            "max_length": _LONGEST,
            "num_beams": 5,
        },
    )
    _write_tokenizer(network, origin, directory)
    (directory / "README.md").write_text(model_card(network, origin), "utf-8")


def _tensors(network: Network) -> dict[str, Tensor]:
    """Build all that the file of parameters holds."""
    parameters, tied = network.parameters, network.config.tied_embeddings
    positions = network.positions(_NUM_POSITIONS)
    final, target = parameters["embeddings.output_bias"], network.target_matrix
    source, output = network.source_matrix, parameters.get("embeddings.output", target)
    if network.config.zero_start:
        target, output = (with_silent_row(matrix, BOS) for matrix in (target, output))
        final = with_silent_bias(final, BOS)
    assert positions is not None
    tensors = {BIAS: final[None], **{name: positions.clone() for name in POSITIONS}}
    match tied:
        case "all":
            tensors[SHARED] = target
        case "target":
            tensors |= {ENCODER: source, DECODER: target}
        case _:
            tensors |= {ENCODER: source, DECODER: target, OUTPUT: output}
    for part in parts_of(network.config):
        weight, bias = cut_part(parameters, part)
        assert bias is not None
        tensors |= {f"{name_of(part)}.weight": weight, f"{name_of(part)}.bias": bias}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


_CONTROL_IDS = {
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "decoder_start_token_id": BOS,
}


def _config(network: Network, target_size: int, num_positions: int) -> dict[str, Any]:
    config, vocabularies = network.config, network.vocabularies
    tied_all = config.tied_embeddings == "all"
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "dtype": "float32",
        "is_encoder_decoder": True,
        "vocab_size": target_size if tied_all else vocabularies.source.size,
        "decoder_vocab_size": target_size,
        "share_encoder_decoder_embeddings": tied_all,
        "tie_word_embeddings": config.tied_embeddings != "none",
        "scale_embedding": True,
        "d_model": config.dimension,
        "max_position_embeddings": num_positions,
        "activation_function": config.activation,
        **_CONTROL_IDS,
        "forced_eos_token_id": EOS,
        **{
            f"{side}_{key}": value
            for side, layers in (
                ("encoder", config.encoder_layers),
                ("decoder", config.decoder_layers),
            )
            for key, value in {
                "layers": layers,
                "attention_heads": network.heads,
                "ffn_dim": feed_forward_width(config),
            }.items()
        },
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": feed_forward_dropout(config),
    }


def _write_tokenizer(network: Network, origin: Origin, directory: Path) -> None:
    vocabularies, separate = network.vocabularies, network.config.tied_embeddings != "all"
    source, target = (_names(v, network) for v in (vocabularies.source, vocabularies.target))
    if network.config.zero_start:
        target.append(CONTROL_NAMES[BOS])
    write_json(directory / "vocab.json", _numbered(source if separate else target))
    if separate:
        write_json(directory / "target_vocab.json", _numbered(target))
    (directory / "source.spm").write_bytes(vocabularies.source.model)
    (directory / "target.spm").write_bytes(vocabularies.target.model)
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "MarianTokenizer",
            "source_lang": origin.source_language,
            "target_lang": origin.target_language,
            "separate_vocabs": separate,
            "model_max_length": _LONGEST,
            "pad_token": target[PAD],
            "unk_token": target[UNK],
            "bos_token": target[BOS],
            "eos_token": target[EOS],
        },
    )


def _names(vocabulary: Vocabulary, network: Network) -> list[str]:
    """List pieces, the one that the decoder starts with in the place of BOS."""
    names = [word_as_tag(piece) for piece in vocabulary.pieces()]
    if network.config.zero_start:
        names[BOS] = ZERO
    return names


def _numbered(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}
