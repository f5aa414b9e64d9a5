"""What lies in a preprocessed RUN: figures of its corpora, counted chunk by chunk."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.data.shards import SIDES, CorpusPart, ParallelShards
from nmtasync.data.vocabulary import Vocabulary, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.preprocessing.dropped import Dropped
from nmtasync.preprocessing.piece_counts import Distribution, PieceCounts, coverage
from nmtasync.preprocessing.staging import OnProgress
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import typed

NEAR = 0.9
"""A pair is near the limit if a side has at least this share of data.max_length."""

PARTS = ("train", "valid")
_CHUNK_PAIRS = 1 << 18
_SHOWN_PIECES = 1000


@dataclass(frozen=True)
class Wanted:
    """What is listed beside the figures.

    Attributes:
        pieces: So many of the commonest pieces, and of those that never occur.
        pairs: So many pairs of training and of validation.
        seed: Which pairs.
    """

    pieces: int = 15
    pairs: int = 5
    seed: int = 1


@dataclass(frozen=True)
class InputFile:
    """A file that preprocessing has read, as the manifest has it.

    Attributes:
        corpus: "train", "valid".
        side: "source", "target", or what else it held.
        path: Where it was.
        sha256: Of its content.
        lines: How many it had.
        name: Of its corpus, if it has one.
        weight: Of its corpus.
        language: Its language, if it is known.
    """

    corpus: str
    side: str
    path: str
    sha256: str
    lines: int
    name: str | None = None
    weight: float = 1.0
    language: str | None = None


@dataclass(frozen=True)
class SidePiece:
    """The pieces of one sentence.

    Attributes:
        length: How many it has.
        pieces: Their texts, at most the first 1,000.
    """

    length: int
    pieces: Sequence[str]


@dataclass(frozen=True)
class SamplePair:
    """A pair of the corpus.

    Attributes:
        number: Its place among all pairs, from 1 on.
        corpus: The name of its corpus.
        source: Its source side.
        target: Its target side.
    """

    number: int
    corpus: str
    source: SidePiece
    target: SidePiece


@dataclass(frozen=True)
class Figures:
    """What was counted in a stretch of pairs.

    Attributes:
        name: Of the corpus, or of all.
        weight: How often a pair is used in an epoch; None for all corpora together.
        pairs: How many.
        near_limit: Those of which a side has at least `NEAR` of data.max_length.
        lengths: Pieces of the sentences, EOS not counted, by side.
        ratios: Target pieces divided by source pieces, of pairs with no empty side.
        pieces: Which pieces occur, by side.
    """

    name: str
    weight: float | None
    pairs: int
    near_limit: int
    lengths: dict[str, Distribution]
    ratios: Distribution
    pieces: dict[str, PieceCounts]

    def to_json(self, vocabularies: VocabularyPair, num_pieces: int) -> dict[str, Any]:
        """Write the figures as JSON.

        Args:
            vocabularies: Those of the corpus.
            num_pieces: So many pieces are listed.
        """
        sides: tuple[Vocabulary, ...] = vocabularies.source, vocabularies.target
        joint = None
        if vocabularies.joint:
            counts = self.pieces["source"].counts + self.pieces["target"].counts
            joint = coverage(counts, vocabularies.target, num_pieces)
        return {
            "name": self.name,
            "weight": self.weight,
            "pairs": self.pairs,
            "near_max_length": self.near_limit,
            "near_max_length_share": self.near_limit / self.pairs if self.pairs else 0.0,
            "ratios": self.ratios.to_json(),
            "joint_coverage": joint,
            **{
                side: {
                    "lengths": self.lengths[side].to_json(),
                    **self.pieces[side].to_json(vocabulary, self.pairs, num_pieces),
                }
                for side, vocabulary in zip(SIDES, sides, strict=True)
            },
        }


@dataclass(frozen=True)
class Part:
    """The training or the validation corpus.

    Attributes:
        total: Of all pairs.
        corpora: Of each corpus.
        sample: Some pairs.
        num_read: Pairs that were read.
        dropped: What was dropped of them, by reason.
        inputs: The files that they come from.
    """

    total: Figures
    corpora: Sequence[Figures]
    sample: Sequence[SamplePair]
    num_read: int
    dropped: Sequence[Dropped]
    inputs: Sequence[InputFile]


@dataclass(frozen=True)
class Inspection:
    """What is in a RUN.

    Attributes:
        parts: By "train" and "valid".
        vocabularies: Of the run.
        max_length: data.max_length, in pieces.
        wanted: What was asked for.
    """

    parts: dict[str, Part]
    vocabularies: VocabularyPair
    max_length: int
    wanted: Wanted

    def to_json(self) -> dict[str, Any]:
        """The whole, for `--json`."""
        pair, most = self.vocabularies, self.wanted.pieces
        return {
            "vocabulary": {
                "joint": pair.joint,
                "source_size": pair.source.size,
                "target_size": pair.target.size,
            },
            "max_length": self.max_length,
            **{
                name: {
                    **part.total.to_json(pair, most),
                    "corpora": [each.to_json(pair, most) for each in part.corpora],
                    "sample": [dataclasses.asdict(each) for each in part.sample],
                    "read": part.num_read,
                    "dropped": [dataclasses.asdict(each) for each in part.dropped],
                    "inputs": [dataclasses.asdict(each) for each in part.inputs],
                }
                for name, part in self.parts.items()
            },
        }


def inspect(
    run: RunDirectory,
    wanted: Wanted,
    on_progress: OnProgress = lambda step, done, total: None,
) -> Inspection:
    """Count what a preprocessed RUN holds.

    Memory does not grow with the corpus, but with how many lengths and ratios there are.

    Args:
        run: The RUN.
        wanted: What is listed.
        on_progress: Told how many pairs are counted.

    Raises:
        UserError: RUN is not preprocessed, or a file of it is damaged.
    """
    run.refuse_imported()
    manifest = run.read_manifest()
    vocabularies = VocabularyPair.load(run.vocab)
    try:
        max_length = typed(int, manifest["options"].get("max_length"), "options.max_length")
        inputs = typed(tuple[InputFile, ...], manifest.get("inputs"), "inputs")
        records = {name: _read_record(manifest, name) for name in PARTS}
    except ValueError as error:
        raise UserError(
            f"is damaged: {error}",
            where=run.manifest,
            remedy="preprocess again into a new directory",
        ) from None
    parts = {}
    for name in PARTS:
        shards = ParallelShards.open(run.data / name)
        shards.refuse_other_vocabulary(vocabularies.source.size, vocabularies.target.size)
        counter = _Counter(shards, vocabularies, name, max_length, on_progress)
        corpora = [counter.count(*each) for each in _ranges(shards, name)]
        num_read, dropped = records[name]
        parts[name] = Part(
            counter.total(corpora),
            corpora,
            _sample(shards, vocabularies, name, wanted),
            num_read,
            dropped,
            [file for file in inputs if file.corpus == name],
        )
    return Inspection(parts, vocabularies, max_length, wanted)


def _read_record(manifest: dict[str, Any], name: str) -> tuple[int, tuple[Dropped, ...]]:
    record = typed(dict[str, Any], manifest.get(name), name)
    num_read = typed(int, record.get("num_read"), f"{name}.num_read")
    return num_read, typed(tuple[Dropped, ...], record.get("dropped"), f"{name}.dropped")


def _ranges(shards: ParallelShards, name: str) -> Iterator[tuple[CorpusPart, range]]:
    """Return each corpus with its pairs; one alone is called as the part is."""
    begin = 0
    for part in shards.corpora:
        unnamed = len(shards.corpora) == 1 and part.name == "train"
        named = dataclasses.replace(part, name=name) if unnamed else part
        yield named, range(begin, begin + part.pairs)
        begin += part.pairs


class _Counter:
    """Counts stretches of a corpus, chunk by chunk."""

    def __init__(
        self,
        shards: ParallelShards,
        vocabularies: VocabularyPair,
        name: str,
        max_length: int,
        on_progress: OnProgress,
    ) -> None:
        self._shards = shards
        self._vocabularies = vocabularies
        self._name = name
        self._near = NEAR * max_length
        self._on_progress = on_progress
        self._bytes = {
            "source": vocabularies.source.byte_ids(),
            "target": vocabularies.target.byte_ids(),
        }

    def _nothing(self) -> tuple[dict[str, Distribution], Distribution, dict[str, PieceCounts]]:
        pair = self._vocabularies
        sizes = {"source": pair.source.size, "target": pair.target.size}
        pieces = {side: PieceCounts(size, self._bytes[side]) for side, size in sizes.items()}
        return {side: Distribution() for side in SIDES}, Distribution(), pieces

    def count(self, part: CorpusPart, pairs: range) -> Figures:
        """Count one corpus."""
        shards, near = self._shards, 0
        lengths, ratios, pieces = self._nothing()
        for begin in range(pairs.start, pairs.stop, _CHUNK_PAIRS):
            end = min(begin + _CHUNK_PAIRS, pairs.stop)
            self._on_progress(f"counting {self._name}", begin, len(shards))
            source = shards.source_offsets[begin : end + 1]
            target = shards.target_offsets[begin : end + 1]
            sides = np.diff(source), np.diff(target)
            near += int(np.count_nonzero(np.maximum(*sides) >= self._near))
            both = np.minimum(*sides) > 0
            ratios.add(sides[1][both] / sides[0][both])
            for side, of_side in zip(SIDES, sides, strict=True):
                lengths[side].add(of_side)
            pieces["source"].add(shards.source_tokens, source)
            pieces["target"].add(shards.target_tokens, target)
        return Figures(part.name, part.weight, len(pairs), near, lengths, ratios, pieces)

    def total(self, corpora: Sequence[Figures]) -> Figures:
        """Add up the figures of all corpora."""
        lengths, ratios, pieces = self._nothing()
        for corpus in corpora:
            ratios.merge(corpus.ratios)
            for side in SIDES:
                lengths[side].merge(corpus.lengths[side])
                pieces[side].merge(corpus.pieces[side])
        num_pairs = sum(corpus.pairs for corpus in corpora)
        near = sum(corpus.near_limit for corpus in corpora)
        return Figures(self._name, None, num_pairs, near, lengths, ratios, pieces)


def _sample(
    shards: ParallelShards, vocabularies: VocabularyPair, name: str, wanted: Wanted
) -> list[SamplePair]:
    """Draw pairs, one at random of each of equal stretches of the corpus."""
    number = min(wanted.pairs, len(shards))
    bounds = [len(shards) * i // number for i in range(number + 1)] if number else []
    rng = np.random.default_rng(wanted.seed)
    result = []
    ranges = list(_ranges(shards, name))
    for begin, end in itertools.pairwise(bounds):
        pair = int(rng.integers(begin, end))
        corpus = next(part.name for part, pairs in ranges if pair in pairs)
        source = _spelled(vocabularies.source, shards.source_tokens, shards.source_offsets, pair)
        target = _spelled(vocabularies.target, shards.target_tokens, shards.target_offsets, pair)
        result.append(SamplePair(pair + 1, corpus, source, target))
    return result


def _spelled(
    vocabulary: Vocabulary, tokens: npt.NDArray[Any], offsets: npt.NDArray[Any], pair: int
) -> SidePiece:
    begin, end = int(offsets[pair]), int(offsets[pair + 1])
    ids = tokens[begin : min(end, begin + _SHOWN_PIECES)].tolist()
    return SidePiece(end - begin, vocabulary.spell(ids))
