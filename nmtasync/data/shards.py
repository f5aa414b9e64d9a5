"""The binarised parallel corpus: ids of all sentences end to end, memory-mapped.

A directory holds, for each side, NAME.tokens (ids, little-endian uint16 or uint32) and
NAME.offsets (N + 1 little-endian int64: sentence i is tokens[offsets[i]:offsets[i + 1]]), and
`shards.json`, written last, that describes them. Neither BOS nor EOS is stored. If words were
aligned, alignment.links holds the links of all pairs, end to end, each a source and a target
position in the sentence with its EOS (little-endian uint16), and alignment.offsets says where
the links of a pair are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nmtasync.data.alignment import Links
from nmtasync.errors import UserError
from nmtasync.run_directory import directory_written_atomically
from nmtasync.untrusted import parse_json, read_document, regular_size, shortened, typed

SHARDS_FORMAT = 1
SIDES = ("source", "target")
_DESCRIPTION = "shards.json"
_OFFSET = np.dtype("<i8")
_LINK = np.dtype([("source", "<u2"), ("target", "<u2")])

_PART = 1_000_000
"""So many sentences are looked at together, where their lengths are not to be kept."""
_TOKENS: list[np.dtype[Any]] = [np.dtype("<u2"), np.dtype("<u4")]
_CHUNK = 1 << 20

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
class _Description:
    """The content of shards.json."""

    format: int
    pairs: int
    source: _SideFiles
    target: _SideFiles
    alignment: _LinkFiles | None = None


class ParallelShards:
    """A binarised parallel corpus, read through memory maps.

    Cheap to open and to pickle: another process opens the same files again.

    Args:
        directory: Where the files are.
        description: What shards.json says, which `open` reads.

    Attributes:
        alignment: If the corpus has one, the links of pieces, with the fields `source` and
            `target` [L], and of each pair the first of its links, and at last L: [N + 1].

    Raises:
        UserError: A file is missing or damaged.
    """

    def __init__(self, directory: Path, description: _Description) -> None:
        self.directory = directory
        self._num_pairs = description.pairs
        self.source_tokens, self.source_offsets = self._map_tokens("source", description.source)
        self.target_tokens, self.target_offsets = self._map_tokens("target", description.target)
        links = description.alignment
        self.alignment = None
        if links is not None:
            self.alignment = self._map("alignment.links", _LINK, links.links)
            self._check_links(*self.alignment)

    @classmethod
    def open(cls, directory: Path) -> ParallelShards:
        """Open what a `ShardsWriter` has written.

        Raises:
            UserError: There is no such corpus, it has another format, or it is damaged.
        """
        where = directory / _DESCRIPTION
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
            return cls(directory, typed(_Description, content, "the corpus"))
        except ValueError as error:
            message = f"is damaged: {error}"
            raise UserError(message, where=where, remedy="preprocess again") from None

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return ParallelShards.open, (self.directory,)

    def _map_tokens(self, side: str, about: _SideFiles) -> tuple[Ids, Ids]:
        for dtype in _TOKENS:
            if dtype.str == about.dtype:
                return self._map(f"{side}.tokens", dtype, about.tokens)
        raise ValueError(f"dtype can't be {shortened(about.dtype)}")

    def _map(self, name: str, dtype: np.dtype[Any], num_items: int) -> tuple[Ids, Ids]:
        items = _map_file(self.directory / name, dtype, num_items)
        path = (self.directory / name).with_suffix(".offsets")
        offsets = _map_file(path, _OFFSET, self._num_pairs + 1)
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

    def longest(self) -> tuple[int, int]:
        """Pieces of the longest source and of the longest target, EOS not counted."""
        return _longest(self.source_offsets), _longest(self.target_offsets)


def _longest(offsets: Ids) -> int:
    parts = (offsets[i : i + _PART + 1] for i in range(0, len(offsets) - 1, _PART))
    return max((int(np.diff(part).max()) for part in parts), default=0)


class ShardsWriter:
    """Writes a corpus of any size, chunk by chunk. Made by `write_shards`.

    Args:
        directory: An empty directory.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
        aligned: Whether all pairs come with links.
    """

    def __init__(
        self, directory: Path, source_size: int, target_size: int, *, aligned: bool
    ) -> None:
        self.num_pairs = 0
        self._sides = [
            _SequenceWriter(directory / f"{side}.tokens", _token_dtype(size))
            for side, size in zip(SIDES, (source_size, target_size), strict=True)
        ]
        links = directory / "alignment.links"
        self._alignment = _SequenceWriter(links, _LINK) if aligned else None

    def append(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        alignments: Sequence[Links] | None = None,
    ) -> None:
        """Append sentence pairs, given as ids without BOS and EOS, with the links of pieces."""
        assert len(sources) == len(targets)
        self._sides[0].append(sources)
        self._sides[1].append(targets)
        if self._alignment is not None:
            assert alignments is not None and len(alignments) == len(sources)
            self._alignment.append(alignments)
        self.num_pairs += len(sources)

    def close(self) -> None:
        """Close the files."""
        for writer in (*self._sides, self._alignment):
            if writer is not None:
                writer.close()

    def describe(self) -> dict[str, Any]:
        """Build the content of shards.json."""
        description: dict[str, Any] = {"format": SHARDS_FORMAT, "pairs": self.num_pairs}
        for side, writer in zip(SIDES, self._sides, strict=True):
            description[side] = {"dtype": writer.dtype.str, "tokens": writer.num_items}
        if self._alignment is not None:
            description["alignment"] = {"links": self._alignment.num_items}
        return description


@contextlib.contextmanager
def write_shards(
    directory: Path, source_size: int, target_size: int, *, aligned: bool = False
) -> Iterator[ShardsWriter]:
    """Write a corpus into a directory that takes its name only when everything is in it.

    Args:
        directory: Where the corpus shall stand.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
        aligned: Whether all pairs come with links.
    """
    with directory_written_atomically(directory) as aside:
        writer = ShardsWriter(aside, source_size, target_size, aligned=aligned)
        try:
            yield writer
        finally:
            writer.close()
        (aside / _DESCRIPTION).write_text(json.dumps(writer.describe()), encoding="utf-8")


class _SequenceWriter:
    """A file of sequences, tokens or links, end to end, and beside it the one of their offsets."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.num_items = 0
        self._items: BinaryIO = path.open("wb")
        self._offsets: BinaryIO = path.with_suffix(".offsets").open("wb")
        self._offsets.write(np.zeros(1, _OFFSET).tobytes())

    def append(self, sequences: Sequence[Sequence[Any]]) -> None:
        lengths = np.fromiter(map(len, sequences), dtype=_OFFSET, count=len(sequences))
        ends = self.num_items + np.cumsum(lengths, dtype=_OFFSET)
        self._offsets.write(ends.tobytes())  # unlike tofile, tells a full disk from other errors
        total = int(lengths.sum())
        flat = itertools.chain.from_iterable(sequences)
        self._items.write(np.fromiter(flat, dtype=self.dtype, count=total).tobytes())
        self.num_items += total

    def close(self) -> None:
        self._items.close()
        self._offsets.close()


def _token_dtype(vocabulary_size: int) -> np.dtype[Any]:
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
