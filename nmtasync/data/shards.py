"""The binarised parallel corpus: ids of all sentences end to end, memory-mapped.

A directory holds, for each side, NAME.tokens (ids, little-endian uint16 or uint32) and
NAME.offsets (N + 1 little-endian int64: sentence i is tokens[offsets[i]:offsets[i + 1]]), and
`shards.json`, written last, that describes them. Neither BOS nor EOS is stored. If words were
aligned, alignment.links holds the links of all pairs, end to end, each a source and a target
position in the sentence with its EOS (little-endian uint16), and alignment.offsets says where
the links of a pair are. The pairs may come from several corpora, which lie one after the other.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.data.subword_sampling import SubwordSampler
from nmtasync.errors import UserError
from nmtasync.untrusted import parse_json, read_document, regular_size, shortened, typed

SHARDS_FORMAT = 1
SIDES = ("source", "target")
SOURCE_TEXT, TARGET_TEXT = "source.txt", "target.txt"
"""The text of a validation corpus, beside its shards: BLEU needs it."""

MAX_WEIGHT = 1000.0
"""The largest weight of a corpus: how often each of its pairs is used in an epoch."""

DESCRIPTION = "shards.json"
OFFSET = np.dtype("<i8")
LINK = np.dtype([("source", "<u2"), ("target", "<u2")])

_PART = 1_000_000
"""So many sentences are looked at together, where their lengths are not to be kept."""
_TOKENS: list[np.dtype[Any]] = [np.dtype("<u2"), np.dtype("<u4")]
_CHUNK = 1 << 20
_MEASURED_PAIRS = 2000
"""Segmented anew to learn by how much sentences get longer."""

Ids = npt.NDArray[Any]
Lengths = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _SideFiles:
    dtype: str
    tokens: int


@dataclass(frozen=True)
class _LinkFiles:
    links: int


@dataclass(frozen=True)
class CorpusPart:
    """One of the corpora that lie one after the other.

    Attributes:
        name: What it is called.
        pairs: How many pairs are its.
        weight: How often each of them is used in an epoch, on average over epochs.
    """

    name: str
    pairs: int
    weight: float = 1.0


@dataclass(frozen=True)
class _Description:
    """The content of shards.json."""

    format: int
    pairs: int
    source: _SideFiles
    target: _SideFiles
    alignment: _LinkFiles | None = None
    corpora: tuple[CorpusPart, ...] | None = None


def check_corpora(corpora: Sequence[CorpusPart], num_pairs: int) -> None:
    """See that corpora make up all pairs, and have weights that training can use.

    Args:
        corpora: Those of all pairs, in their order.
        num_pairs: How many pairs there are.

    Raises:
        ValueError: They do not.
    """
    if not corpora or sum(part.pairs for part in corpora) != num_pairs:
        raise ValueError(f"the corpora do not have {num_pairs:,} pairs together")
    for part in corpora:
        if not 0 < part.weight <= MAX_WEIGHT:  # nor is what is no number
            name = shortened(repr(part.name))
            raise ValueError(f"the weight of {name} can't be {part.weight}")
    drawn = sum(math.floor(part.pairs * part.weight) for part in corpora)
    if num_pairs and not drawn:
        raise ValueError("the weights of the corpora leave an epoch without pairs")


@dataclass(frozen=True)
class Sentences:
    """Sentences of one side.

    Attributes:
        tokens: Ids of many sentences, end to end.
        offsets: Sentence i is tokens[offsets[i] : offsets[i + 1]].
        rows: Which of them: [B].
    """

    tokens: Ids
    offsets: Ids
    rows: Ids

    @classmethod
    def of_lists(cls, sequences: Sequence[Sequence[int]]) -> Sentences:
        """Put sentences together that are lists of ids."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        tokens = np.fromiter(itertools.chain.from_iterable(sequences), np.int64, lengths.sum())
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        return cls(tokens, offsets, np.arange(len(sequences)))

    def to_lists(self) -> list[list[int]]:
        """Return the ids of each sentence."""
        bounds = zip(self.offsets[self.rows], self.offsets[self.rows + 1], strict=True)
        return [self.tokens[start:end].tolist() for start, end in bounds]


class ParallelShards:
    """A binarised parallel corpus, read through memory maps.

    Cheap to open and to pickle: another process opens the same files again.

    Args:
        directory: Where the files are.
        description: What shards.json says, which `open` reads.
        sampler: Segments the sentences anew; None leaves them as they are stored.

    Attributes:
        alignment: If the corpus has one, the links of pieces, with the fields `source` and
            `target` [L], and of each pair the first of its links, and at last L: [N + 1].
        corpora: Those that its pairs come from, in their order; one if nothing was said.

    Raises:
        UserError: A file is missing or damaged.
    """

    def __init__(
        self, directory: Path, description: _Description, sampler: SubwordSampler | None = None
    ) -> None:
        self.directory = directory
        self._sampler = sampler
        self._num_pairs = description.pairs
        self.source_tokens, self.source_offsets = self._map_tokens("source", description.source)
        self.target_tokens, self.target_offsets = self._map_tokens("target", description.target)
        self.corpora = description.corpora or (CorpusPart("train", description.pairs),)
        links = description.alignment
        self.alignment = None
        if links is not None:
            self.alignment = self._map("alignment.links", LINK, links.links)
            self._check_links(*self.alignment)

    @classmethod
    def open(cls, directory: Path, sampler: SubwordSampler | None = None) -> ParallelShards:
        """Open what a `ShardsWriter` has written; arguments as of the class.

        Raises:
            UserError: There is no such corpus, it has another format, or it is damaged.
        """
        where = directory / DESCRIPTION
        try:
            content = parse_json(read_document(where))
            version = content["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                "there is no binarised corpus", where=directory, remedy="preprocess again"
            ) from None
        if version != SHARDS_FORMAT:
            raise UserError(
                f"has format {version}, not {SHARDS_FORMAT}", where=where, remedy="preprocess again"
            )
        try:
            description = typed(_Description, content, "the corpus")
            if description.corpora is not None:
                check_corpora(description.corpora, description.pairs)
            return cls(directory, description, sampler)
        except ValueError as error:
            message = f"is damaged: {error}"
            raise UserError(message, where=where, remedy="preprocess again") from None

    def __reduce__(self) -> tuple[Any, tuple[Path, SubwordSampler | None]]:
        return ParallelShards.open, (self.directory, self._sampler)

    def _map_tokens(self, side: str, about: _SideFiles) -> tuple[Ids, Ids]:
        for dtype in _TOKENS:
            if dtype.str == about.dtype:
                return self._map(f"{side}.tokens", dtype, about.tokens)
        raise ValueError(f"dtype can't be {shortened(about.dtype)}")

    def _map(self, name: str, dtype: np.dtype[Any], num_items: int) -> tuple[Ids, Ids]:
        items = _map_file(self.directory / name, dtype, num_items)
        path = (self.directory / name).with_suffix(".offsets")
        offsets = _map_file(path, OFFSET, self._num_pairs + 1)
        pieces = (offsets[start : start + _CHUNK + 1] for start in range(0, len(offsets), _CHUNK))
        in_order = all((piece[:-1] <= piece[1:]).all() for piece in pieces)  # sums may wrap round
        if offsets[0] != 0 or offsets[-1] != num_items or not in_order:
            message = "is damaged: a sentence would begin before the one ahead of it ends"
            raise UserError(message, where=path, remedy="preprocess again")
        return items, offsets

    def _check_links(self, links: Ids, offsets: Ids) -> None:
        """Refuse links of pieces that their sentences do not have."""
        for start in range(0, self._num_pairs, _CHUNK):
            bounds = offsets[start : start + _CHUNK + 1]
            counts = np.diff(bounds)
            for side, of_side in zip(
                SIDES, (self.source_offsets, self.target_offsets), strict=True
            ):
                lengths = np.diff(of_side[start : start + _CHUNK + 1])
                named = links[side][bounds[0] : bounds[-1]]
                if (named > np.repeat(lengths, counts)).any():
                    raise UserError(
                        f"is damaged: a link leads out of its {side} sentence",
                        where=self.directory / "alignment.links",
                        remedy="preprocess again",
                    )

    def refuse_other_vocabulary(self, source_size: int, target_size: int) -> None:
        """Refuse a corpus of pieces that vocabularies of these sizes do not have.

        Raises:
            UserError: There is one.
        """
        sides = (self.source_tokens, source_size), (self.target_tokens, target_size)
        for side, (tokens, size) in zip(SIDES, sides, strict=True):
            chunks = (tokens[i : i + _CHUNK] for i in range(0, len(tokens), _CHUNK))
            if any(int(chunk.max()) >= size for chunk in chunks):
                raise UserError(
                    f"holds pieces that the {side} vocabulary, of {size:,}, does not have",
                    where=self.directory / f"{side}.tokens",
                    remedy="preprocess again",
                )

    def __len__(self) -> int:
        """Count the sentence pairs."""
        return self._num_pairs

    @functools.cached_property
    def source_lengths(self) -> Lengths:
        """Pieces of each source sentence, EOS not counted: [N]."""
        return np.diff(self.source_offsets).astype(np.int32)

    @functools.cached_property
    def target_lengths(self) -> Lengths:
        """Pieces of each target sentence, EOS not counted: [N]."""
        return np.diff(self.target_offsets).astype(np.int32)

    def sentences(self, ids: Ids, seed: int) -> list[Sentences]:
        """Look sentences up to be trained on.

        Args:
            ids: Which pairs: [B].
            seed: What is segmented anew is drawn by it.

        Returns:
            The source sentences and the target sentences.
        """
        stored = [
            Sentences(self.source_tokens, self.source_offsets, ids),
            Sentences(self.target_tokens, self.target_offsets, ids),
        ]
        if self._sampler is None:
            return stored
        sides = [sentences.to_lists() for sentences in stored]
        drawn = self._sampler.draw(sides, self._longest, seed)
        return [Sentences.of_lists(sequences) for sequences in drawn]

    @functools.cached_property
    def _longest(self) -> tuple[int, int]:
        return self.longest()

    @functools.cached_property
    def _growth(self) -> list[float]:
        """By how much the sentences of both sides get longer when they are segmented anew."""
        ids = np.unique(np.linspace(0, len(self) - 1, _MEASURED_PAIRS).astype(np.int64))
        stored = self._stored_lengths(ids)
        drawn = [np.diff(sentences.offsets) for sentences in self.sentences(ids, seed=0)]
        return [
            float(after.sum() / max(before.sum(), 1))
            for before, after in zip(stored, drawn, strict=True)
        ]

    def lengths_of(self, ids: Ids) -> tuple[Lengths, Lengths]:
        """Pieces of the source and the target of some pairs, EOS not counted: each [B].

        Of sentences that are segmented anew: what is expected, by the mean of some.
        """
        source, target = self._stored_lengths(ids)
        if self._sampler is None:
            return source, target
        expected = [
            np.minimum(np.rint(lengths * growth), most).astype(np.int32)
            for lengths, growth, most in zip(
                (source, target), self._growth, self._longest, strict=True
            )
        ]
        return expected[0], expected[1]

    def _stored_lengths(self, ids: Ids) -> tuple[Lengths, Lengths]:
        in_line = np.argsort(ids)  # a disk reads them faster as they lie
        ids = ids[in_line]
        source, target = np.empty(len(ids), np.int32), np.empty(len(ids), np.int32)
        for lengths, mapped in (source, self.source_offsets), (target, self.target_offsets):
            offsets = np.asarray(mapped)
            lengths[in_line] = offsets.take(ids + 1) - offsets.take(ids)
        return source, target

    def longest(self) -> tuple[int, int]:
        """Pieces of the longest source and of the longest target, EOS not counted."""
        return _longest(self.source_offsets), _longest(self.target_offsets)


def _longest(offsets: Ids) -> int:
    parts = (offsets[i : i + _PART + 1] for i in range(0, len(offsets) - 1, _PART))
    return max((int(np.diff(part).max()) for part in parts), default=0)


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the type that ids of a vocabulary of this size are stored in."""
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


def _map_file(path: Path, dtype: np.dtype[Any], num_items: int) -> Ids:
    size_bytes = num_items * dtype.itemsize
    try:
        damaged = regular_size(path) != size_bytes
    except (OSError, ValueError):
        damaged = True
    if damaged:
        raise UserError(
            f"is missing or damaged: it should have {size_bytes} bytes",
            where=path,
            remedy="preprocess again",
        )
    if size_bytes == 0:  # an empty file can't be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")
