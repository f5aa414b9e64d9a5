"""Writes a binarised corpus, block by block; a writer that was killed can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.data.journaled_files import JournaledFiles
from nmtasync.data.shards import (
    DESCRIPTION,
    LINK,
    OFFSET,
    SHARDS_FORMAT,
    SIDES,
    SOURCE_TEXT,
    TARGET_TEXT,
    CorpusPart,
    check_corpora,
    token_dtype,
)

_ALIGNMENT = "alignment.links"
_JOURNAL = ".journal.json"


@dataclass(frozen=True)
class PackedSequences:
    """Sequences end to end, as the files hold them.

    Attributes:
        items: The bytes of their items.
        lengths: How many items each has: [N].
    """

    items: bytes
    lengths: npt.NDArray[np.int64]


def pack(sequences: Sequence[Sequence[Any]], dtype: np.dtype[Any]) -> PackedSequences:
    """Pack sequences of ids, or of links."""
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    flat = [item for sequence in sequences for item in sequence]
    return PackedSequences(np.array(flat, dtype).tobytes(), lengths)


class ShardsWriter:
    """Writes a corpus of any size. A context manager that closes its files.

    Args:
        directory: Where the corpus shall stand; what an earlier writer has committed there stays.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
        aligned: Whether all pairs come with links.
        text: Whether the lines are kept beside the ids.

    Attributes:
        dtypes: The types of the ids of both sides.
        state: What the earlier writer has given to `append` last; None if there was none.
    """

    def __init__(
        self,
        directory: Path,
        source_size: int,
        target_size: int,
        *,
        aligned: bool = False,
        text: bool = False,
    ) -> None:
        self._directory = directory
        self.dtypes = tuple(token_dtype(size) for size in (source_size, target_size))
        self._items = dict.fromkeys((f"{side}.tokens" for side in SIDES), 0)
        self._sizes = [dtype.itemsize for dtype in self.dtypes]
        if aligned:
            self._items[_ALIGNMENT] = 0
            self._sizes.append(LINK.itemsize)
        names = [name for items in self._items for name in (items, _offsets(items))]
        names += [SOURCE_TEXT, TARGET_TEXT] if text else []
        directory.mkdir(parents=True, exist_ok=True)
        self._files = JournaledFiles(directory, names, _JOURNAL)
        self.state = self._files.state
        for name, size in zip(self._items, self._sizes, strict=True):
            self._items[name] = self._files.sizes[name] // size

    @property
    def num_pairs(self) -> int:
        """Count the pairs written so far."""
        return max(0, self._files.sizes[_offsets("source.tokens")] // OFFSET.itemsize - 1)

    def __enter__(self) -> ShardsWriter:
        self._files.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)

    def append(
        self,
        sequences: Sequence[PackedSequences],
        state: object = None,
        texts: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Append pairs.

        Args:
            sequences: Their source ids and target ids without BOS and EOS, and their links.
            state: What another writer has to know to go on after them, as JSON.
            texts: Their lines, if the text is kept.
        """
        assert len({len(packed.lengths) for packed in sequences}) == 1
        contents: dict[str, bytes] = {}
        for (name, before), packed in zip(self._items.items(), sequences, strict=True):
            ends = before + np.cumsum(packed.lengths, dtype=OFFSET)
            first = b"" if self._files.sizes[_offsets(name)] else bytes(OFFSET.itemsize)
            contents[name] = packed.items
            contents[_offsets(name)] = first + ends.tobytes()
            self._items[name] = before + int(packed.lengths.sum())
        if texts is not None:
            contents[SOURCE_TEXT], contents[TARGET_TEXT] = texts
        self._files.append(contents, state)

    def finish(self, state: object = None, corpora: Sequence[CorpusPart] | None = None) -> None:
        """Describe what was written: from now on it can be opened.

        Args:
            state: As of `append`.
            corpora: Those that all pairs come from, in their order; None leaves them one corpus.

        Raises:
            ValueError: They do not have all pairs, or leave an epoch without any.
        """
        if corpora is not None:
            check_corpora(corpora, self.num_pairs)
        if self.num_pairs == 0 and not self._files.sizes[_offsets("source.tokens")]:
            none = PackedSequences(b"", np.zeros(0, np.int64))
            self.append([none] * len(self._items), state)
        self._files.commit(state)
        description: dict[str, Any] = {"format": SHARDS_FORMAT, "pairs": self.num_pairs}
        for side, dtype in zip(SIDES, self.dtypes, strict=True):
            description[side] = {"dtype": dtype.str, "tokens": self._items[f"{side}.tokens"]}
        if _ALIGNMENT in self._items:
            description["alignment"] = {"links": self._items[_ALIGNMENT]}
        if corpora is not None:
            description["corpora"] = [asdict(part) for part in corpora]
        (self._directory / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def forget_journal(directory: Path) -> None:
    """Remove what only a writer that goes on needs, and what killed ones left of it."""
    for path in (*directory.glob(f".{_JOURNAL}.*.tmp"), directory / _JOURNAL):
        path.unlink(missing_ok=True)


def _offsets(name: str) -> str:
    return f"{name.partition('.')[0]}.offsets"
