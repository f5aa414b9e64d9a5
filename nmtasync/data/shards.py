"""The binarised parallel corpus: ids of all sentences end to end, memory-mapped.

A directory holds, for each side, NAME.tokens (ids, little-endian uint16 or uint32) and
NAME.offsets (N + 1 little-endian int64: sentence i is tokens[offsets[i]:offsets[i + 1]]), and
`shards.json`, written last, that describes them. Neither BOS nor EOS is stored.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nmtasync.errors import UserError
from nmtasync.run_directory import directory_written_atomically

SHARDS_FORMAT = 1
SIDES = ("source", "target")
_DESCRIPTION = "shards.json"
_OFFSET = np.dtype("<i8")

Ids = npt.NDArray[Any]
Lengths = npt.NDArray[np.int32]


class ParallelShards:
    """A binarised parallel corpus, read through memory maps.

    Cheap to open and to pickle: another process opens the same files again.

    Args:
        directory: Where the files are; `open` checks them.
        description: The content of shards.json.
    """

    def __init__(self, directory: Path, description: dict[str, Any]) -> None:
        self.directory = directory
        self._num_pairs = int(description["pairs"])
        self.source_tokens, self.source_offsets = self._map("source", description)
        self.target_tokens, self.target_offsets = self._map("target", description)

    @classmethod
    def open(cls, directory: Path) -> ParallelShards:
        """Open what a `ShardsWriter` has written.

        Raises:
            UserError: There is no such corpus, it has another format, or it is damaged.
        """
        where = directory / _DESCRIPTION
        try:
            description = json.loads(where.read_text(encoding="utf-8"))
            version = description["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                "there is no binarised corpus", where=directory, remedy="preprocess again"
            ) from None
        if version != SHARDS_FORMAT:
            raise UserError(
                f"has format {version}, not {SHARDS_FORMAT}", where=where, remedy="preprocess again"
            )
        for side in SIDES:
            for path, size_bytes in _sizes(directory, side, description).items():
                if not path.exists() or path.stat().st_size != size_bytes:
                    raise UserError(
                        f"is missing or damaged: it should have {size_bytes} bytes",
                        where=path,
                        remedy="preprocess again",
                    )
        return cls(directory, description)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return ParallelShards.open, (self.directory,)

    def _map(self, side: str, description: dict[str, Any]) -> tuple[Ids, Ids]:
        dtype = np.dtype(description[side]["dtype"])
        tokens = _map_file(_tokens_path(self.directory, side), dtype)
        return tokens, _map_file(_offsets_path(self.directory, side), _OFFSET)

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

    def source(self, i: int) -> Ids:
        """Return the ids of source sentence i, without EOS; a view of the file."""
        return self.source_tokens[self.source_offsets[i] : self.source_offsets[i + 1]]

    def target(self, i: int) -> Ids:
        """Return the ids of target sentence i, without EOS; a view of the file."""
        return self.target_tokens[self.target_offsets[i] : self.target_offsets[i + 1]]


class ShardsWriter:
    """Writes a corpus of any size, chunk by chunk. Made by `write_shards`.

    Args:
        directory: An empty directory.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
    """

    def __init__(self, directory: Path, source_size: int, target_size: int) -> None:
        self.num_pairs = 0
        self._sides = (
            _SideWriter(directory, "source", source_size),
            _SideWriter(directory, "target", target_size),
        )

    def append(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
        """Append sentence pairs, given as ids without BOS and EOS."""
        assert len(sources) == len(targets)
        self._sides[0].append(sources)
        self._sides[1].append(targets)
        self.num_pairs += len(sources)

    def close(self) -> None:
        """Close the files."""
        for side in self._sides:
            side.close()

    def describe(self) -> dict[str, Any]:
        """Say what shards.json says."""
        sides = {s.side: {"dtype": s.dtype.str, "tokens": s.num_tokens} for s in self._sides}
        return {"format": SHARDS_FORMAT, "pairs": self.num_pairs, **sides}


@contextlib.contextmanager
def write_shards(directory: Path, source_size: int, target_size: int) -> Iterator[ShardsWriter]:
    """Write a corpus into a directory that takes its name only when everything is in it.

    Args:
        directory: Where the corpus shall stand.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
    """
    with directory_written_atomically(directory) as aside:
        writer = ShardsWriter(aside, source_size, target_size)
        try:
            yield writer
        finally:
            writer.close()
        (aside / _DESCRIPTION).write_text(json.dumps(writer.describe()), encoding="utf-8")


class _SideWriter:
    """The two files of one side."""

    def __init__(self, directory: Path, side: str, vocabulary_size: int) -> None:
        self.side = side
        self.dtype = np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")
        self.num_tokens = 0
        self._tokens: BinaryIO = _tokens_path(directory, side).open("wb")
        self._offsets: BinaryIO = _offsets_path(directory, side).open("wb")
        self._offsets.write(np.zeros(1, _OFFSET).tobytes())

    def append(self, sentences: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter(map(len, sentences), dtype=_OFFSET, count=len(sentences))
        ends = self.num_tokens + np.cumsum(lengths, dtype=_OFFSET)
        self._offsets.write(ends.tobytes())  # unlike tofile, tells a full disk from other errors
        total = int(lengths.sum())
        flat = itertools.chain.from_iterable(sentences)
        self._tokens.write(np.fromiter(flat, dtype=self.dtype, count=total).tobytes())
        self.num_tokens += total

    def close(self) -> None:
        self._tokens.close()
        self._offsets.close()


def _tokens_path(directory: Path, side: str) -> Path:
    return directory / f"{side}.tokens"


def _offsets_path(directory: Path, side: str) -> Path:
    return directory / f"{side}.offsets"


def _sizes(directory: Path, side: str, description: dict[str, Any]) -> dict[Path, int]:
    about = description[side]
    return {
        _tokens_path(directory, side): about["tokens"] * np.dtype(about["dtype"]).itemsize,
        _offsets_path(directory, side): (description["pairs"] + 1) * _OFFSET.itemsize,
    }


def _map_file(path: Path, dtype: np.dtype[Any]) -> Ids:
    if path.stat().st_size == 0:  # an empty file can't be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")
