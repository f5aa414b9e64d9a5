"""Networks out of Hugging Face's directories of MarianMTModel.

Source: as of `huggingface_names`.
Shapes: U pieces of theirs, V of ours, D dimension, L positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmtasync.config.load import convert
from nmtasync.config.schema import OPTIONS, ModelConfig
from nmtasync.data.vocabulary import MAX_MODEL_BYTES, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.interchange.huggingface_names import (
    ACTIVATIONS,
    BIAS,
    DECODER,
    ENCODER,
    OUTPUT,
    POSITIONS,
    SHARED,
    ZERO,
    name_of,
)
from nmtasync.interchange.imported_run import Imported, model_config
from nmtasync.interchange.parts import Part, WeightAndBias, join_parts, shape_of
from nmtasync.interchange.reading import reading
from nmtasync.interchange.renumber import Control, Renumbering, by_number, renumber
from nmtasync.interchange.tensor_file import TensorFile
from nmtasync.models.positions import paper_sinusoids, sinusoids
from nmtasync.untrusted import parse_json, read_document, typed

_AS_OURS: dict[str, tuple[bool, bool]] = {
    "scale_embedding": (True, False),
    "normalize_before": (False, False),
    "normalize_embedding": (False, False),
    "add_final_layer_norm": (False, False),
}
"""What must be so for the network to be one of ours, and what is so where it is not said."""

_ROUNDINGS = 10


@dataclass(frozen=True)
class _About:
    """What config.json says.

    Attributes:
        settings: Options of [model], by key, but for positions.
        pad: Number of the piece.
        eos: Likewise.
        start: Of the piece that the decoder starts with.
    """

    settings: dict[str, Any]
    pad: int
    eos: int
    start: int


@dataclass(frozen=True)
class _Pieces:
    """The pieces of both sides.

    Attributes:
        source: By their numbers.
        target: Likewise, the same where both sides have the same.
        models: The SentencePiece models of source and target.
        languages: The codes of source and target, as far as they are known.
    """

    source: list[str]
    target: list[str]
    models: tuple[bytes, bytes]
    languages: tuple[str | None, str | None]


def read_huggingface(directory: Path) -> Imported:
    """Read a directory with config.json, model.safetensors, vocab.json, source.spm, target.spm.

    Raises:
        UserError: Something is missing or damaged, or the network is none that we have.
    """
    with reading(directory / "config.json"):
        about = _read_about(_object(directory / "config.json"))
    pieces = _read_pieces(directory, joint=about.settings["tied_embeddings"] == "all")
    path = directory / "model.safetensors"
    if not path.exists() and (directory / "pytorch_model.bin").exists():
        raise UserError(
            "is pickled, and would run what it holds",
            where=directory / "pytorch_model.bin",
            remedy="save it as model.safetensors with transformers, if you trust it",
        )
    with reading(path):
        return _read_network(directory, about, pieces, TensorFile(path))


def _object(path: Path) -> dict[str, Any]:
    return typed(dict[str, Any], parse_json(read_document(path)), "the file")


def _read_about(content: Mapping[str, Any]) -> _About:
    def number(key: str) -> int:
        return typed(int, content.get(key), key)

    def probability(key: str) -> float:
        return typed(float, content.get(key, 0.0), key)

    if content.get("model_type") != "marian":
        raise ValueError("model_type is not marian")
    for key, (wanted, usual) in _AS_OURS.items():
        if content.get(key, usual) is not wanted:
            raise ValueError(f"{key} is not {str(wanted).lower()}")
    for key in ("attention_heads", "ffn_dim"):
        if number(f"encoder_{key}") != number(f"decoder_{key}"):
            raise ValueError(f"{key} of encoder and decoder differ")
    activation = typed(str, content.get("activation_function"), "activation_function")
    if activation not in ACTIVATIONS:
        raise ValueError(f"there is no activation_function {activation!r}")
    shared = content.get("share_encoder_decoder_embeddings", True)
    output = "target" if content.get("tie_word_embeddings", True) else "none"
    settings = {
        "norm": "post",
        "activation": ACTIVATIONS[activation],
        "dimension": number("d_model"),
        "heads": number("encoder_attention_heads"),
        "feed_forward": number("encoder_ffn_dim"),
        "encoder_layers": number("encoder_layers"),
        "decoder_layers": number("decoder_layers"),
        "tied_embeddings": "all" if shared else output,
        "dropout": probability("dropout"),
        "attention_dropout": probability("attention_dropout"),
        "feed_forward_dropout": probability("activation_dropout"),
    }
    ids = (number(f"{key}_token_id") for key in ("pad", "eos", "decoder_start"))
    return _About(settings, *ids)


def _read_pieces(directory: Path, *, joint: bool) -> _Pieces:
    tokens = []
    for name in ["vocab.json"] if joint else ["vocab.json", "target_vocab.json"]:
        with reading(directory / name):
            tokens.append(
                by_number(typed(dict[str, int], parse_json(read_document(directory / name))))
            )
    models = []
    for name in ("source.spm", "target.spm"):
        with reading(directory / name):
            models.append(read_document(directory / name, MAX_MODEL_BYTES))
    languages: tuple[str | None, str | None] = (None, None)
    place = directory / "tokenizer_config.json"
    if place.exists():
        with reading(place):
            content = _object(place)
            first, second = (content.get(f"{side}_lang") for side in ("source", "target"))
            languages = _language(first), _language(second)
    return _Pieces(tokens[0], tokens[-1], (models[0], models[1]), languages)


def _language(code: Any) -> str | None:
    """Return what is a code of a language; it is only told, so that others are left out."""
    try:
        known: str | None = convert(OPTIONS["data.source_language"], code or None, where="")
    except UserError:
        return None
    return known


def _read_network(directory: Path, about: _About, pieces: _Pieces, tensors: TensorFile) -> Imported:
    """Read parameters, embeddings first: the file must hold as much as the config promises."""
    dimension, tied = about.settings["dimension"], about.settings["tied_embeddings"]
    sizes = (len(pieces.source), dimension), (len(pieces.target), dimension)
    matrices = {}
    if tied == "all":
        matrices["target"] = tensors.take(SHARED, sizes[1])
    else:
        matrices["source"] = tensors.take(ENCODER, sizes[0])
        matrices["target"] = tensors.take(DECODER, sizes[1])
        if tied == "none":
            matrices["output"] = tensors.take(OUTPUT, sizes[1])
    bias = torch.zeros(len(pieces.target))
    if BIAS in tensors.shapes:
        bias = tensors.take(BIAS, (1, len(pieces.target)))[0]
    zero_start = not matrices["target"][about.start : about.start + 1].any()
    vocabularies, rows = _renumber(about, pieces, zero_start=bool(zero_start))
    parameters = {f"embeddings.{side}": rows[side].take(m) for side, m in matrices.items()}
    parameters["embeddings.output_bias"] = rows["target"].take_bias(bias)
    positions, table = _read_positions(tensors, dimension)
    if table is not None:
        parameters["positions.table"] = _unscaled(table)
    config = model_config(
        {**about.settings, **positions, "zero_start": bool(zero_start)}, directory / "config.json"
    )
    parameters |= _read_layers(config, tensors)
    origin = {"format": "huggingface", "path": str(directory.absolute())}
    return Imported(config, parameters, vocabularies, *pieces.languages, origin)


def _renumber(
    about: _About, pieces: _Pieces, *, zero_start: bool
) -> tuple[VocabularyPair, dict[str, Renumbering]]:
    unknown = [
        side.index("<unk>") if "<unk>" in side else -1 for side in (pieces.source, pieces.target)
    ]
    named = pieces.target.index("<s>") if "<s>" in pieces.target else None
    start = about.start
    bos = named if zero_start else start
    dropped = frozenset({start} - {about.pad} if zero_start else ())
    control = Control(about.pad, unknown[1], bos, about.eos, bos == about.pad, dropped)
    joint = pieces.source is pieces.target
    if joint:
        (source, target), rows = renumber(pieces.target, control, pieces.models)
        return VocabularyPair.of_joint(source, target), {"source": rows, "target": rows}
    (target,), rows = renumber(pieces.target, control, pieces.models[1:])
    names = ("<s>", ZERO)  # as of the exporter, whose target alone has both
    here = next((pieces.source.index(name) for name in names if name in pieces.source), None)
    control = Control(about.pad, unknown[0], here, about.eos)
    (source,), others = renumber(pieces.source, control, pieces.models[:1])
    return VocabularyPair(source, target, joint=False), {
        "source": others,
        "target": rows,
        "output": rows,
    }


def _read_positions(tensors: TensorFile, dimension: int) -> tuple[dict[str, Any], Tensor | None]:
    """Find out which positions these are; a table of learned ones comes with them [L, D]."""
    if POSITIONS[0] not in tensors.shapes:  # they are not saved, as they are always the same
        return {"positions": "sinusoidal-paper"}, None
    shape = tensors.shapes[POSITIONS[0]]
    if len(shape) != 2:
        raise ValueError(f"{POSITIONS[0]} is no matrix")
    table, other = (tensors.take(name, (shape[0], dimension)) for name in POSITIONS)
    if not torch.equal(table, other):
        raise ValueError("positions of encoder and decoder differ")
    if not dimension % 2:
        known = {"sinusoidal": sinusoids, "sinusoidal-paper": paper_sinusoids}
        for name, compute in known.items():
            if torch.allclose(compute(*shape), table, rtol=0.0, atol=1e-5):
                return {"positions": name}, None
    return {"positions": "learned", "max_positions": shape[0]}, table


def _unscaled(table: Tensor) -> Tensor:
    """Divide positions [L, D] by sqrt(D), by which ours are multiplied when they are added.

    Rounded so that the quotient is the same when it is multiplied, written and read again.
    """
    scale = math.sqrt(table.shape[1])
    quotient = table / scale
    for _ in range(_ROUNDINGS):
        again = quotient * scale / scale
        if torch.equal(again, quotient):
            break
        quotient = again
    return quotient


def _read_layers(config: ModelConfig, tensors: TensorFile) -> dict[str, Tensor]:
    def find(part: Part) -> WeightAndBias:
        shape, name = shape_of(config, part), name_of(part)
        return tensors.take(f"{name}.weight", shape), tensors.take(f"{name}.bias", shape[:1])

    return join_parts(config, find)
