"""The last pass of preprocessing: segment a staged corpus, filter by length, write its shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtasync.config.schema import DataConfig
from nmtasync.data.alignment import Links, align_pieces, parse_alignment
from nmtasync.data.cleaning import Verdict, judge_lengths
from nmtasync.data.report import CorpusReport
from nmtasync.data.shards import ParallelShards, write_shards
from nmtasync.data.staging import SOURCE_TEXT, TARGET_TEXT, OnProgress, StagedCorpus
from nmtasync.data.vocabulary import VocabularyPair

_CHUNK_PAIRS = 10_000


def binarise(
    corpus: StagedCorpus,
    data: Path,
    vocabularies: VocabularyPair,
    filters: DataConfig | None,
    on_progress: OnProgress,
) -> CorpusReport:
    """Segment a corpus and write its shards to data/NAME.

    Args:
        corpus: What to write; the filters' verdicts are added to it.
        data: The parent of the shards' directory.
        vocabularies: How to segment.
        filters: Drop pairs by their length in pieces; None keeps all, as validation needs it, and
            keeps their text beside the shards.
        on_progress: Told how far it is.
    """
    directory = data / corpus.name
    source_words = target_words = done = 0
    total = corpus.num_kept
    sizes = vocabularies.source.size, vocabularies.target.size
    with write_shards(directory, *sizes, aligned=corpus.aligned) as shards:
        for pairs, sources, targets, alignments in _chunks(corpus):
            on_progress(f"binarising ({corpus.name})", done, total)
            links = None
            if corpus.aligned:
                source_ids, target_ids, links = _align(vocabularies, sources, targets, alignments)
            else:
                source_ids = vocabularies.source.encode(sources)
                target_ids = vocabularies.target.encode(targets)
            verdicts = judge_lengths(_lengths(source_ids), _lengths(target_ids), filters)
            corpus.verdicts[pairs] = verdicts
            kept = (verdicts == Verdict.KEPT).tolist()
            shards.append(
                list(itertools.compress(source_ids, kept)),
                list(itertools.compress(target_ids, kept)),
                None if links is None else list(itertools.compress(links, kept)),
            )
            source_words += _count_words(itertools.compress(sources, kept))
            target_words += _count_words(itertools.compress(targets, kept))
            done += len(pairs)
    if filters is None:
        _write_text(corpus, directory)
    return _report(corpus, ParallelShards.open(directory), source_words, target_words)


def _chunks(
    corpus: StagedCorpus,
) -> Iterator[tuple[npt.NDArray[np.int64], list[str], list[str], list[str]]]:
    pairs = corpus.kept_pairs()
    while chunk := list(itertools.islice(pairs, _CHUNK_PAIRS)):
        numbers, sources, targets, alignments = zip(*chunk, strict=True)
        yield np.array(numbers), list(sources), list(targets), list(alignments)


def _align(
    vocabularies: VocabularyPair, sources: list[str], targets: list[str], alignments: list[str]
) -> tuple[list[list[int]], list[list[int]], list[Links]]:
    """Segment pairs whose words are aligned; returns ids of both sides, and links of pieces."""
    segmented = vocabularies.source.segment(sources), vocabularies.target.segment(targets)
    links = []
    for source, target, alignment, left, right in zip(
        sources, targets, alignments, *segmented, strict=True
    ):
        # This can't fail: it was checked while staging.
        words = parse_alignment(alignment, source, target, where=None)
        links.append(align_pieces(words, left.words(source), right.words(target)))
    return [left.ids for left in segmented[0]], [right.ids for right in segmented[1]], links


def _lengths(sentences: list[list[int]]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))


def _count_words(lines: Iterable[str]) -> int:
    return sum(len(line.split()) for line in lines)


def _write_text(corpus: StagedCorpus, directory: Path) -> None:
    with (
        (directory / SOURCE_TEXT).open("w", encoding="utf-8", newline="\n") as sources,
        (directory / TARGET_TEXT).open("w", encoding="utf-8", newline="\n") as targets,
    ):
        for _, source, target, _ in corpus.kept_pairs():
            sources.write(source + "\n")
            targets.write(target + "\n")


def _report(
    corpus: StagedCorpus, shards: ParallelShards, source_words: int, target_words: int
) -> CorpusReport:
    longest = np.maximum(shards.source_lengths, shards.target_lengths).max(initial=0)
    return CorpusReport(
        num_read=len(corpus),
        num_kept=corpus.num_kept,
        dropped=corpus.dropped(),
        source_words=source_words,
        target_words=target_words,
        source_pieces=int(shards.source_lengths.sum(dtype=np.int64)),
        target_pieces=int(shards.target_lengths.sum(dtype=np.int64)),
        longest=int(longest),
    )
