"""What is done to some thousand staged pairs at a time, by one of several processes: segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.config.schema import DataConfig
from nmtasync.data.alignment import align_pieces, parse_alignment
from nmtasync.data.shards import LINK
from nmtasync.data.shards_writer import PackedSequences, pack
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.data.word_encoder import WordEncoder, count_words
from nmtasync.preprocessing.dropped import Dropped, merged, rejected_line
from nmtasync.preprocessing.rules import Verdict, Verdicts, judge_pieces
from nmtasync.preprocessing.staged_texts import Piece
from nmtasync.preprocessing.staging import StagedCorpus


@dataclass(frozen=True)
class Task:
    """A block of staged pairs that is to be segmented.

    Attributes:
        piece: Where it is.
        verdicts: What has become of its pairs so far: [N].
        path: The file of its source side.
        lines: Which line of it each pair is: [N].
    """

    piece: Piece
    verdicts: Verdicts
    path: Path
    lines: npt.NDArray[np.uint64]

    def where(self, i: int) -> str:
        """Name file and line of a pair's source side."""
        return f"{self.path}:{self.lines[i]}"


@dataclass(frozen=True)
class BinaryBlock:
    """What has become of a block.

    Attributes:
        piece: Where it was.
        sequences: Source ids, target ids, and links, of the pairs that are kept.
        texts: Their lines, if they are asked for.
        words: Their words of both sides.
        dropped: What was dropped here, by reason.
        rejected: The text of all that this and earlier passes over staged pairs have dropped, if
            it is asked for.
    """

    piece: Piece
    sequences: list[PackedSequences]
    texts: tuple[bytes, bytes] | None
    words: list[int]
    dropped: list[Dropped]
    rejected: bytes


class BlockBinariser:
    """Segments blocks.

    Args:
        corpus: Where they are from.
        vocabularies: How to segment.
        filters: Drop pairs by their pieces; None keeps all, as validation needs it, and their text.
        dtypes: The types of the ids of both sides.
        keep_rejected: Whether to keep the text of what is dropped.
    """

    def __init__(
        self,
        corpus: StagedCorpus,
        vocabularies: VocabularyPair,
        filters: DataConfig | None,
        dtypes: tuple[np.dtype[Any], ...],
        *,
        keep_rejected: bool,
    ) -> None:
        self._texts = corpus.texts
        self._aligned = corpus.aligned
        self._vocabularies = vocabularies
        self._filters = filters
        self._dtypes = dtypes
        self._keep_rejected = keep_rejected
        self._encoders: list[WordEncoder] | None = None

    def __call__(self, task: Task) -> BinaryBlock:
        """Segment and judge a block."""
        texts = self._texts.read(task.piece)
        verdicts = np.array(task.verdicts)
        candidates = np.flatnonzero(verdicts == Verdict.KEPT)
        segmented = self._segment([[side[i] for i in candidates.tolist()] for side in texts])
        pieces = [
            (np.frombuffer(packed.items, dtype), packed.lengths)
            for packed, dtype in zip(segmented, self._dtypes, strict=False)
        ]
        verdicts[candidates] = judge_pieces(pieces[0], pieces[1], self._filters)
        kept = verdicts[candidates] == Verdict.KEPT
        dropped = [self._describe(task, texts, i, verdicts) for i in candidates[~kept].tolist()]
        kept_texts = [[side[i] for i in candidates[kept].tolist()] for side in texts[:2]]
        return BinaryBlock(
            task.piece,
            [
                _select(packed, dtype, kept)
                for packed, dtype in zip(segmented, (*self._dtypes, LINK), strict=False)
            ],
            self._kept_text(kept_texts),
            list(map(count_words, kept_texts)),
            merged([dropped]),
            self._reject(task, texts, verdicts),
        )

    def _describe(
        self, task: Task, texts: Sequence[Sequence[str]], i: int, verdicts: Verdicts
    ) -> Dropped:
        return Dropped.one(Verdict(verdicts[i]), task.where(i), texts[0][i], texts[1][i])

    def _reject(self, task: Task, texts: Sequence[Sequence[str]], verdicts: Verdicts) -> bytes:
        if not self._keep_rejected:
            return b""
        lines = [
            rejected_line(Verdict(verdicts[i]), task.where(i), texts[0][i], texts[1][i])
            for i in np.flatnonzero(verdicts).tolist()
        ]
        return "".join(lines).encode("utf-8", "surrogateescape")

    def _kept_text(self, texts: Sequence[Sequence[str]]) -> tuple[bytes, bytes] | None:
        if self._filters is not None:
            return None
        source, target = ("".join(f"{line}\n" for line in side).encode() for side in texts)
        return source, target

    def _segment(self, texts: Sequence[list[str]]) -> list[PackedSequences]:
        """Segment pairs."""
        pair = self._vocabularies
        if self._aligned:
            return self._align(*texts)
        if self._encoders is None:
            sides = zip((pair.source, pair.target), self._dtypes, strict=True)
            self._encoders = [WordEncoder(vocabulary, dtype) for vocabulary, dtype in sides]
        encoders = zip(self._encoders, texts, strict=True)
        return [PackedSequences(*encoder.encode(lines)) for encoder, lines in encoders]

    def _align(
        self, sources: list[str], targets: list[str], alignments: list[str]
    ) -> list[PackedSequences]:
        """Segment pairs whose words are aligned, and link their pieces."""
        pair = self._vocabularies
        segmented = pair.source.segment(sources), pair.target.segment(targets)
        links = []
        for source, target, alignment, left, right in zip(
            sources, targets, alignments, *segmented, strict=True
        ):
            # This can't fail: it was checked while staging.
            words = parse_alignment(alignment, source, target, where=None)
            links.append(align_pieces(words, left.words(source), right.words(target)))
        ids = [
            pack([each.ids for each in side], dtype)
            for side, dtype in zip(segmented, self._dtypes, strict=True)
        ]
        return [*ids, pack(links, LINK)]


def _select(
    packed: PackedSequences, dtype: np.dtype[Any], kept: npt.NDArray[np.bool_]
) -> PackedSequences:
    if kept.all():
        return packed
    items = np.frombuffer(packed.items, dtype)
    return PackedSequences(items[np.repeat(kept, packed.lengths)].tobytes(), packed.lengths[kept])
