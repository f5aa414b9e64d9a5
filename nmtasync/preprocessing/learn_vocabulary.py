"""Vocabularies learned from text, or taken from a model of another toolkit."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from nmtasync.config.schema import DataConfig
from nmtasync.data.decompression import open_input
from nmtasync.data.vocabulary import (
    BOS,
    EOS,
    MAX_MODEL_BYTES,
    PAD,
    UNK,
    Vocabulary,
    refuse_damaged,
)
from nmtasync.errors import UserError

# Sums of floats depend on how training is cut into threads, so their number is not the machine's.
_TRAINING_THREADS = 4
_MAX_LINE_BYTES = 1 << 20
_NO_LOGS = 3
_CONTROL, _UNKNOWN, _UNUSED, _WHOLE = 3, 2, 5, 4  # SentencePiece's kinds of pieces
_LAST = -1e6
"""The score of pieces that text is never cut into: their merges come after all others."""
_CONTROL_PIECES = (("<pad>", _CONTROL), ("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL))
CONTROL_NAMES = tuple(name for name, _ in _CONTROL_PIECES)
"""The control pieces, by their ids."""


def learn_vocabulary(
    lines: Iterable[str], config: DataConfig, *, where: object = "data.vocab_size"
) -> Vocabulary:
    """Learn a vocabulary from text; the same lines give the same vocabulary.

    Args:
        lines: The text, read once.
        config: How. The control pieces and the 256 bytes of the fallback count among the pieces.
        where: What an error names as its place.

    Raises:
        UserError: The size does not fit the text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=config.vocab_size,
            model_type=config.vocab_type,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            normalization_rule_name=config.normalization,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            user_defined_symbols=(config.user_symbols or "").split(),
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=_TRAINING_THREADS,
            minloglevel=_NO_LOGS,
        )
    except RuntimeError as error:
        raise _explain(str(error), config.vocab_size, where) from None
    return Vocabulary(model.getvalue())


def _explain(message: str, size: int, where: object) -> UserError:
    """Build an error that says in the user's terms what SentencePiece has refused."""
    reason, remedy = f"SentencePiece failed: {message}", None
    if limit := re.search(r"too high.*<= (\d+)", message):
        reason = (
            f"the corpus is too small for a vocabulary of {size} pieces; the largest possible is "
            f"{limit[1]}"
        )
        remedy = f"use --vocab-size {limit[1]} or less, or more text"
    elif needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        reason = (
            f"{size} pieces are too few; single characters and control pieces alone are {needed[1]}"
        )
        remedy = f"use a --vocab-size well over {needed[1]}"
    elif "sentences_.empty()" in message or "all_chars_count" in message:
        reason = "there is no text to learn a vocabulary from"
    return UserError(reason, where=where, remedy=remedy)


def read_models(names: str) -> tuple[Vocabulary, Vocabulary]:
    """Read SentencePiece models of any toolkit.

    Args:
        names: A file for both sides, or two with a comma between them.

    Returns:
        The vocabularies of source and target, the same object if they are the same.

    Raises:
        UserError: A file is no such model.
    """
    paths = [Path(name.strip()) for name in names.split(",")]
    if len(paths) > 2:
        raise UserError("names more than two files", where=f"data.vocab_model = {names}")
    models = [_read_model(path) for path in paths]
    return models[0], models[-1]


def _read_model(path: Path) -> Vocabulary:
    with open_input(path) as file:
        content = file.read(MAX_MODEL_BYTES + 1)
    try:
        if len(content) > MAX_MODEL_BYTES:
            raise ValueError(f"it has more than {MAX_MODEL_BYTES:,} bytes")
        refuse_damaged(content)
        return Vocabulary(_with_our_control_pieces(content))
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is damaged"
        raise UserError(f"is no SentencePiece model: {reason}", where=path) from None


def text_pieces(model: bytes) -> list[str]:
    """List the pieces that a SentencePiece model of any toolkit cuts text into, bytes too.

    Raises:
        ValueError: It is none.
    """
    refuse_damaged(model)
    message: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    content = message.ModelProto.FromString(model)
    never = _CONTROL, _UNKNOWN, _UNUSED
    return [piece.piece for piece in content.pieces if piece.type not in never]


def numbered_pieces(model: bytes) -> tuple[list[str], int, int]:
    """List all pieces of a SentencePiece model of any toolkit, by their numbers.

    Returns:
        The pieces, and the numbers of unknown text and of the end of sentence.

    Raises:
        ValueError: It is none, or it has no end of sentence.
    """
    refuse_damaged(model)
    message: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    content = message.ModelProto.FromString(model)
    pieces = [piece.piece for piece in content.pieces]
    unknown = [piece.type for piece in content.pieces].index(_UNKNOWN)
    end = content.trainer_spec.eos_piece
    if end not in pieces:
        raise ValueError("it has no end of sentence")
    return pieces, unknown, pieces.index(end)


def renumbered(model: bytes, pieces: Sequence[str], whole: Collection[str] = ()) -> Vocabulary:
    """Give a SentencePiece model of any toolkit these pieces, in this order.

    Text is cut as before, but for pieces that stay whole wherever they stand. What the model lacks
    besides no text is cut into, but it is joined to text.

    Args:
        model: The model.
        pieces: The control pieces first, as ours are called, then others, among them all
            `text_pieces` of the model.
        whole: Those of them that stay whole.

    Raises:
        ValueError: The model is none, or the pieces are none for it.
    """
    refuse_damaged(model)
    message: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    content = message.ModelProto.FromString(model)
    kept = {
        piece.piece: (piece.score, piece.type)
        for piece in content.pieces
        if piece.type not in (_CONTROL, _UNKNOWN)
    }
    names = [name for name, _ in _CONTROL_PIECES]
    if list(pieces[: len(names)]) != names:
        raise ValueError(f"its control pieces are not {', '.join(names)}")
    del content.pieces[:]
    for name, kind in _CONTROL_PIECES:
        content.pieces.add(piece=name, score=0.0, type=kind)
    for text in pieces[len(names) :]:
        score, kind = kept.get(text, (_LAST, _UNUSED))
        if text in whole:
            score, kind = 0.0, _WHOLE
        content.pieces.add(piece=text, score=score, type=kind)
    serialized = _with_control_ids(content)
    refuse_damaged(serialized)
    try:
        return Vocabulary(serialized)
    except RuntimeError as error:  # of SentencePiece
        raise ValueError(str(error)) from None


def _with_our_control_pieces(model: bytes) -> bytes:
    """Number the control pieces 0 to 3, and the others after them, in their order."""
    message: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    content = message.ModelProto.FromString(model)
    names = {name for name, _ in _CONTROL_PIECES}
    others = [
        message.ModelProto.SentencePiece.FromString(piece.SerializeToString())
        for piece in content.pieces
        if piece.type not in (_CONTROL, _UNKNOWN)
    ]
    if taken := names & {piece.piece for piece in others}:
        raise ValueError(f"{sorted(taken)[0]} is no control piece in it")
    del content.pieces[:]
    for name, kind in _CONTROL_PIECES:
        content.pieces.add(piece=name, score=0.0, type=kind)
    content.pieces.extend(others)
    return _with_control_ids(content)


def _with_control_ids(content: Any) -> bytes:
    """Say which pieces are control pieces, and serialise the model."""
    trainer = content.trainer_spec
    trainer.pad_id, trainer.unk_id, trainer.bos_id, trainer.eos_id = PAD, UNK, BOS, EOS
    trainer.pad_piece, trainer.unk_piece, trainer.bos_piece, trainer.eos_piece = (
        name for name, _ in _CONTROL_PIECES
    )
    trainer.vocab_size = len(content.pieces)
    serialized: bytes = content.SerializeToString()
    return serialized
