"""Networks out of Marian's model.npz.

Source: as of `marian_names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nmtasync.config.schema import ModelConfig
from nmtasync.data.vocabulary import MAX_MODEL_BYTES, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.interchange import marian_recurrent
from nmtasync.interchange.imported_run import Imported, model_config
from nmtasync.interchange.marian_names import (
    CONFIG,
    DECODER,
    DECODERS,
    ENCODER,
    FIRST,
    FIXED,
    FIXED_OF_TRANSFORMERS,
    NORMS,
    OUTPUT,
    RECURRENT,
    SECOND,
    SHARED,
    names_of,
    row_of,
)
from nmtasync.interchange.marian_yaml import Options, parse_options, parse_vocabulary
from nmtasync.interchange.npz import NpzFile
from nmtasync.interchange.parts import Part, WeightAndBias, join_parts, shape_of
from nmtasync.interchange.reading import reading
from nmtasync.interchange.renumber import Control, renumber
from nmtasync.preprocessing.learn_vocabulary import numbered_pieces
from nmtasync.untrusted import read_document, regular_size, shortened


@dataclass(frozen=True)
class _Side:
    """The pieces of one side.

    Attributes:
        tokens: By their numbers.
        unk: The number of unknown text.
        eos: Of the end of sentence.
        model: The SentencePiece model.
    """

    tokens: list[str]
    unk: int
    eos: int
    model: bytes

    def control(self) -> Control:
        """Say which are control pieces; PAD and BOS by their names, as Marian has none."""
        pad, bos = (
            self.tokens.index(name) if name in self.tokens else None for name in ("<pad>", "<s>")
        )
        return Control(pad, self.unk, bos, self.eos)


def read_marian(path: Path, vocabularies: Sequence[Path] | None) -> Imported:
    """Read a Transformer or a recurrent network of Marian.

    Args:
        path: The npz file.
        vocabularies: Of source and target, .spm, or .yml beside source.spm and target.spm; None
            for those beside the network.

    Raises:
        UserError: Something is missing or damaged, or the network is none that we have.
    """
    with reading(path):
        regular_size(path)
    sides = [_read_side(*each) for each in _find_vocabularies(path, vocabularies)]
    with reading(path):
        file = NpzFile(path)
        options = parse_options(file.text(CONFIG))
        kind, settings = str(options.get("type", FIRST)), _read_settings(options)
        return _read_network(path, file, kind, settings, sides)


def _find_vocabularies(path: Path, given: Sequence[Path] | None) -> list[tuple[Path, Path]]:
    """Find the vocabulary and the SentencePiece model of source and target."""
    folder = path.parent
    models = [folder / "source.spm", folder / "target.spm"]
    if given is None:
        lists = sorted({*folder.glob("*vocab.yml"), *folder.glob("vocab*.yml")})
        given = lists * 2 if len(lists) == 1 else models
    if not given[0].exists():
        raise UserError(
            "is not there, and no other vocabulary beside the model",
            where=given[0],
            remedy="name those of source and target by --vocabs SRC TGT",
        )
    vocabularies = list(given)
    return [
        (vocabulary, vocabulary if vocabulary.suffix == ".spm" else model)
        for vocabulary, model in zip(vocabularies, models, strict=True)
    ]


def _read_side(vocabulary: Path, model_path: Path) -> _Side:
    with reading(model_path):
        model = read_document(model_path, MAX_MODEL_BYTES)
        if vocabulary == model_path:
            tokens, unk, eos = numbered_pieces(model)
            return _Side(tokens, unk, eos, model)
    with reading(vocabulary):
        tokens = parse_vocabulary(read_document(vocabulary).decode("utf-8"))
        for name in ("<unk>", "</s>"):
            if name not in tokens:
                raise ValueError(f"it has no {name}")
    return _Side(tokens, tokens.index("<unk>"), tokens.index("</s>"), model)


def _read_settings(options: Options) -> dict[str, Any]:
    """Read the options of [model] that Marian's options stand for."""
    _refuse_others(options, FIXED)
    kind = options.get("type", FIRST)
    if kind == RECURRENT:
        own = _read_recurrent(options)
    elif kind in (FIRST, SECOND):
        own = _read_transformer(options)
        if kind == SECOND and own["decoder"] == "ssru":
            raise ValueError(f"{SECOND} with an SSRU is not supported")
    else:
        raise ValueError(f"type is {shortened(repr(kind))}, which is not supported")
    tied = "target" if options.get("tied-embeddings") == "true" else "none"
    return {
        "dimension": _number(options, "dim-emb"),
        "decoder_layers": _number(options, "dec-depth"),
        "tied_embeddings": "all" if options.get("tied-embeddings-all") == "true" else tied,
        "zero_start": True,
        **own,
    }


def _refuse_others(options: Options, fixed: Mapping[str, Any]) -> None:
    for key, value in fixed.items():
        wanted = value if isinstance(value, list) else str(value).lower()
        if options.get(key, wanted) not in (wanted, ""):
            raise ValueError(f"{key} is {shortened(repr(options[key]))}, which is not supported")


def _number(options: Options, key: str) -> int:
    value = options.get(key)
    if not isinstance(value, str) or not value.isdecimal() or len(value) > 9:
        raise ValueError(f"{key} is {shortened(repr(value))}")
    return int(value)


def _read_recurrent(options: Options) -> dict[str, Any]:
    fixed, more = dict(marian_recurrent.FIXED), {}
    if _number(options, "dec-depth") == 1:
        del fixed["dec-cell-high-depth"]
    else:
        more = {"residual_connections": options.get("skip") == "true"}
    _refuse_others(options, fixed)
    return {
        **more,
        "type": "rnn",
        "state_dimension": _number(options, "dim-rnn"),
        "decoder_base_cell_depth": _number(options, "dec-cell-base-depth"),
        **{key: values[0] for key, values in marian_recurrent.HOLDS.items()},
    }


def _read_transformer(options: Options) -> dict[str, Any]:
    _refuse_others(options, FIXED_OF_TRANSFORMERS)
    activation = options.get("transformer-ffn-activation")
    if activation not in ("relu", "swish"):
        raise ValueError(f"transformer-ffn-activation is {shortened(repr(activation))}")
    decoder = _read_decoder(options)
    return {
        "norm": _read_norm(options),
        "decoder": decoder,
        "ssru_bias": decoder != "ssru",
        "activation": activation,
        "heads": _number(options, "transformer-heads"),
        "feed_forward": _number(options, "transformer-dim-ffn"),
        "encoder_layers": _number(options, "enc-depth"),
    }


def _read_decoder(options: Options) -> str:
    for decoder, described in DECODERS.items():
        if all(options.get(key, described[key]) == described[key] for key in described):
            return decoder
    raise ValueError("its decoder has neither self-attention nor an SSRU")


def _read_norm(options: Options) -> str:
    """Find out where the network normalises; dropout, the letter d, does not matter here."""

    def without_dropout(value: object) -> str:
        return str(value).replace("d", "")

    if without_dropout(options.get("transformer-postprocess-emb", "d")):
        raise ValueError("transformer-postprocess-emb is not d")
    for norm, described in NORMS.items():
        if all(
            without_dropout(options.get(key, "")) == without_dropout(value)
            for key, value in described.items()
        ):
            return norm
    raise ValueError("it normalises elsewhere than before or after each sublayer")


def _read_network(
    path: Path, file: NpzFile, kind: str, settings: dict[str, Any], sides: Sequence[_Side]
) -> Imported:
    """Read parameters, embeddings first: the file must hold as much as its options promise."""
    dimension, tied = settings["dimension"], settings["tied_embeddings"]
    source, target = sides
    sizes = (len(source.tokens), dimension), (len(target.tokens), dimension)
    matrices = {"target": file.take(SHARED if tied == "all" else DECODER, sizes[1])}
    if tied != "all":
        matrices["source"] = file.take(ENCODER, sizes[0])
    output = OUTPUT["rnn" if kind == RECURRENT else "transformer"]
    if tied == "none":
        matrices["output"] = _read_output(file, output, sizes[1])
    bias = file.take(f"{output}_b", (1, len(target.tokens)))[0]
    if tied == "all":
        if source.tokens != target.tokens:
            raise ValueError("all embeddings are tied, but the vocabularies differ")
        both, rows = renumber(target.tokens, target.control(), [source.model, target.model])
        vocabularies = VocabularyPair.of_joint(*both)
        of_source = rows
    else:
        (one,), of_source = renumber(source.tokens, source.control(), [source.model])
        (other,), rows = renumber(target.tokens, target.control(), [target.model])
        vocabularies = VocabularyPair(one, other, joint=False)
    parameters = {
        f"embeddings.{side}": (of_source if side == "source" else rows).take(matrix)
        for side, matrix in matrices.items()
    }
    parameters["embeddings.output_bias"] = rows.take_bias(bias)
    config = model_config(settings, path)
    if kind == RECURRENT:
        parameters |= marian_recurrent.read_recurrent(config, file.take)
    else:
        parameters |= _read_layers(config, file, kind)
    origin = {"format": "marian", "path": str(path.absolute())}
    return Imported(config, parameters, vocabularies, None, None, origin)


def _read_output(file: NpzFile, name: str, shape: tuple[int, int]) -> Tensor:
    """Read the output projection [V, D], which older versions kept transposed."""
    if f"{name}_W" in file.names:
        return file.take(f"{name}_W", shape[::-1]).T
    return file.take(f"{name}_Wt", shape)


def _read_layers(config: ModelConfig, file: NpzFile, kind: str) -> dict[str, Tensor]:
    def find(part: Part) -> WeightAndBias:
        shape = shape_of(config, part)
        weight_name, bias_name = names_of(part, config, kind)
        row = row_of(shape[0], kind)
        weight = file.take(weight_name, row if part.is_norm else shape[::-1])
        bias = None if part.bias is None else file.take(bias_name, row).flatten()
        return (weight.flatten() if part.is_norm else weight.T), bias

    return join_parts(config, find)
