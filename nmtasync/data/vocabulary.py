"""Subword vocabularies: learned, stored and applied with SentencePiece.

Ids 0 to 3 are the control pieces PAD, UNK, BOS and EOS. No text encodes to PAD, BOS or EOS, also
not text that reads "<pad>" or "</s>".
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2, sentencepiece_pb2

from nmtasync.data.alignment import Segmented
from nmtasync.data.character_map import check_character_map
from nmtasync.errors import UserError
from nmtasync.untrusted import read_document

PAD, UNK, BOS, EOS = 0, 1, 2, 3

SENTENCEPIECE_VERSION: str = sentencepiece.__version__

JOINT_NAME, SOURCE_NAME, TARGET_NAME = "joint.model", "source.model", "target.model"

_PARALLEL_LINES = 256
MAX_MODEL_BYTES = 16 << 20
_LONGEST_PIECE = 1000
_HIGHEST_SCORE = 1e9
_UNIGRAM, _MERGES = 1, 2  # in SentencePiece's numbers, and kinds of its pieces:
_LEARNED, _UNKNOWN, _BYTE = 1, 2, 6
_BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACE = "\u2581"  # what SentencePiece writes for it
RULES_WITHOUT_SPACES = "rules_without_spaces"
"""The name of rules of a user's own, none of which has a space inside."""
_WORDWISE_NORMALIZATIONS = ("nmt_nfkc", "nfkc", "identity", RULES_WITHOUT_SPACES)
_TIE = 0.02
"""Sums of log-probabilities that differ by less may be ordered otherwise where something stands
before them: in lines of 2,000 characters, rounding changes a word's sum by up to 0.01."""


class Vocabulary:
    """One SentencePiece model.

    Args:
        model: The serialised model.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.size: int = self._processor.get_piece_size()

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a model file.

        Raises:
            UserError: The file can't be read, is no SentencePiece model, or numbers its control
                pieces otherwise.
        """
        remedy = "preprocess again"
        try:
            model = read_document(path, MAX_MODEL_BYTES)
            refuse_damaged(model)
            vocabulary = cls(model)
        except OSError as error:
            message = f"can't read the vocabulary: {error.strerror}"
            raise UserError(message, where=path, remedy=remedy) from None
        except ValueError as error:
            message = f"is no SentencePiece model: {error}"
            raise UserError(message, where=path, remedy=remedy) from None
        except RuntimeError:
            raise UserError("is no SentencePiece model", where=path, remedy=remedy) from None
        processor = vocabulary._processor
        control = processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()
        if control != (PAD, UNK, BOS, EOS):
            raise UserError(f"numbers its control pieces {control}", where=path, remedy=remedy)
        return vocabulary

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[bytes]]:
        return Vocabulary, (self.model,)

    def pieces(self) -> list[str]:
        """List the text of every piece, by its id."""
        pieces: list[str] = self._processor.id_to_piece(list(range(self.size)))
        return pieces

    def spell(self, ids: list[int]) -> list[str]:
        """Return the texts of pieces."""
        return [self._processor.id_to_piece(i) for i in ids]

    def byte_ids(self) -> list[int]:
        """List the pieces that are bytes of characters that no other piece has."""
        return [i for i in range(self.size) if self._processor.is_byte(i)]

    def text_ids(self) -> list[int]:
        """List the pieces of text: no control pieces, not the unknown one, no bytes."""
        processor = self._processor
        others = processor.is_control, processor.is_unknown, processor.is_byte
        return [i for i in range(self.size) if not any(is_other(i) for is_other in others)]

    @functools.cached_property
    def is_unigram(self) -> bool:
        """Whether a text is cut into the most probable pieces; else merges make them."""
        return bool(self._content().trainer_spec.model_type == _UNIGRAM)

    def learned_scores(self) -> dict[int, float]:
        """Return the score of each piece that was learned: of text, and no symbol of a user."""
        pieces = self._content().pieces
        return {i: piece.score for i, piece in enumerate(pieces) if piece.type == _LEARNED}

    def _content(self) -> Any:
        message: Any = sentencepiece_model_pb2  # its classes are made when it is imported
        return message.ModelProto.FromString(self.model)

    def learned_pieces(self) -> set[str]:
        """Return the texts of the pieces of text, but that of the space alone."""
        pieces = self.pieces()
        return {pieces[i] for i in self.text_ids()} - {_SPACE}

    def encode(self, lines: list[str]) -> list[list[int]]:
        """Segment lines into the ids of their pieces, without BOS and EOS."""
        encoded: list[list[int]] = self._encode(lines, int)
        return encoded

    @functools.cached_property
    def is_word_by_word(self) -> bool:
        """Whether what stands between two spaces is segmented alike in every line.

        That is so if no piece leads across a space, and the rules that characters are rewritten
        by, which are not looked into, are of those that have none with a space inside.
        """
        content = self._content()
        normalizer, trainer = content.normalizer_spec, content.trainer_spec
        return bool(
            normalizer.name in _WORDWISE_NORMALIZATIONS
            and normalizer.add_dummy_prefix
            and normalizer.remove_extra_whitespaces
            and normalizer.escape_whitespaces
            and not trainer.treat_whitespace_as_suffix
            and not any(_SPACE in piece.piece[1:] for piece in content.pieces)
        )

    def encode_without_ties(self, words: list[str]) -> list[list[int] | None]:
        """Segment words; None stands for those where another segmentation is about as good."""
        encoded: list[list[int] | None] = list(self.encode(words))
        if not words or not self.is_unigram:
            return encoded  # merges have no ties: of equal ones the first comes first
        message: Any = sentencepiece_pb2
        found = self._processor.nbest_encode(words, nbest_size=2, out_type="serialized_proto")
        for i, serialized in enumerate(found):
            best = message.NBestSentencePieceText.FromString(serialized).nbests
            if len(best) > 1 and best[0].score - best[1].score < _TIE:
                encoded[i] = None
        return encoded

    def segment(self, lines: list[str]) -> list[Segmented]:
        """Segment as `encode`, and return where in its line each piece comes from."""
        message: Any = sentencepiece_pb2  # its classes are made when it is imported
        result = []
        for serialized in self._encode(lines, "serialized_proto"):
            pieces = message.SentencePieceText.FromString(serialized).pieces
            spans = [(piece.begin, piece.end) for piece in pieces]
            result.append(Segmented([piece.id for piece in pieces], spans))
        return result

    def _encode(self, lines: list[str], kind: Any) -> list[Any]:
        if not lines:
            return []
        threads = len(os.sched_getaffinity(0)) if len(lines) >= _PARALLEL_LINES else 1
        encoded: list[Any] = self._processor.encode(lines, out_type=kind, num_threads=threads)
        return encoded

    def lost_characters(self, lines: list[str]) -> list[set[str]]:
        """Find the characters of each line that are not in what its pieces decode to."""
        return [
            {character for character in line if not character.isspace()} - set(decoded)
            for line, decoded in zip(lines, self.decode(self.encode(lines)), strict=True)
        ]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Join pieces to lines of text; control pieces vanish.

        Each result is one line: line breaks, which byte pieces can spell, become spaces.
        """
        if not ids:
            return []
        return [_one_line(text) for text in self._processor.decode(list(ids))]

    def decode_with_spans(self, ids: list[int]) -> tuple[str, Segmented]:
        """Join the pieces of one line as `decode`, and return where in the text each stands."""
        if not ids:  # for which some versions return text
            return "", Segmented([], [])
        message: Any = sentencepiece_pb2  # its classes are made when it is imported
        serialized = self._processor.decode(ids, out_type="serialized_proto")
        decoded = message.SentencePieceText.FromString(serialized)
        spans = [(piece.begin, piece.end) for piece in decoded.pieces]
        return _one_line(decoded.text), Segmented([piece.id for piece in decoded.pieces], spans)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")


def refuse_damaged(model: bytes) -> None:
    """Refuse a model on which SentencePiece might fail otherwise than by an exception.

    Raises:
        ValueError: It is one.
    """
    message: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    try:
        content = message.ModelProto.FromString(model)
        texts = [piece.piece for piece in content.pieces]
        kinds = [piece.type for piece in content.pieces]
        spelled = [text for text, kind in zip(texts, kinds, strict=True) if kind == _BYTE]
    except (DecodeError, UnicodeDecodeError):
        raise ValueError("it is damaged") from None
    if not all(isinstance(text, str) for text in texts):  # as bytes it is no UTF-8
        raise ValueError("a piece is no text")
    if not all(texts) or len(set(texts)) < len(texts) or "\0" in "".join(texts):
        raise ValueError("a piece is empty or there twice")
    if max(map(len, texts), default=0) > _LONGEST_PIECE:
        raise ValueError("a piece is very long")
    if not all(abs(piece.score) <= _HIGHEST_SCORE for piece in content.pieces):
        raise ValueError("a piece has no usable score")
    trained = content.trainer_spec
    if trained.model_type not in (_UNIGRAM, _MERGES) or kinds.count(_UNKNOWN) != 1:
        raise ValueError("it is of another type")
    if len(trained.unk_surface) > _LONGEST_PIECE:
        raise ValueError("its unknown piece is very long")
    if sorted(spelled) != (_BYTE_PIECES if trained.byte_fallback else []):
        raise ValueError("its bytes are not complete")
    check_character_map(content.normalizer_spec.precompiled_charsmap)
    check_character_map(content.denormalizer_spec.precompiled_charsmap)


@dataclass(frozen=True)
class VocabularyPair:
    """The vocabularies of both sides.

    Attributes:
        source: Of the source language.
        target: Of the target language; the same object where both sides share one model.
        joint: Whether both sides have the same pieces. Two joint ones differ in how they rewrite
            characters.
    """

    source: Vocabulary
    target: Vocabulary
    joint: bool

    @classmethod
    def of_joint(cls, source: Vocabulary, target: Vocabulary) -> VocabularyPair:
        """Pair vocabularies that have the same pieces."""
        return cls(target if source.model == target.model else source, target, joint=True)

    @classmethod
    def load(cls, directory: Path) -> VocabularyPair:
        """Read RUN/vocab: joint.model, or source.model and target.model, or the former two.

        Raises:
            UserError: A model is missing or broken.
        """
        if (directory / JOINT_NAME).exists():
            joint = source = Vocabulary.load(directory / JOINT_NAME)
            if (directory / SOURCE_NAME).exists():  # it rewrites characters by other rules
                source = Vocabulary.load(directory / SOURCE_NAME)
                if source.pieces() != joint.pieces():
                    raise UserError(
                        f"has other pieces than {JOINT_NAME}",
                        where=directory / SOURCE_NAME,
                        remedy="preprocess again",
                    )
            return cls(source, joint, joint=True)
        source = Vocabulary.load(directory / SOURCE_NAME)
        return cls(source, Vocabulary.load(directory / TARGET_NAME), joint=False)

    def save(self, directory: Path) -> None:
        """Write the model files into an existing directory."""
        target_name = JOINT_NAME if self.joint else TARGET_NAME
        (directory / target_name).write_bytes(self.target.model)
        if not self.joint or self.source is not self.target:
            (directory / SOURCE_NAME).write_bytes(self.source.model)

    def digest(self) -> str:
        """Hash the model files with SHA-256, so that a checkpoint can name its vocabularies."""
        hasher = hashlib.sha256(self.source.model)
        if not self.joint or self.source is not self.target:
            hasher = hashlib.sha256(hasher.digest() + hashlib.sha256(self.target.model).digest())
        return hasher.hexdigest()
