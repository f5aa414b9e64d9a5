"""The text of a staged corpus, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SOURCE, TARGET, ALIGNMENT = "source", "target", "alignment"

BLOCKS = "blocks"
BLOCK = np.dtype(
    [
        *(("corpus", "<i8"), ("pairs", "<i8")),
        *((name, "<i8") for name in (SOURCE, TARGET, ALIGNMENT)),
    ]
)
"""A row for each block: of which corpus, how many pairs, and where its text ends in the files."""


@dataclass(frozen=True)
class Piece:
    """A block of a staged corpus.

    Attributes:
        corpus: The number of its corpus.
        pairs: The numbers of its pairs, counted over all blocks.
        texts: Where the text of its source, target and alignment begins and ends.
    """

    corpus: int
    pairs: range
    texts: tuple[tuple[int, int], ...]


class StagedTexts:
    """Cuts the files of a staged corpus into its blocks.

    Args:
        directory: Where they are.
        aligned: Whether words are aligned.
    """

    def __init__(self, directory: Path, *, aligned: bool) -> None:
        self._directory = directory
        self._names = (SOURCE, TARGET, ALIGNMENT)[: 2 + aligned]

    def pieces(self) -> Iterator[Piece]:
        """Yield the blocks, in order."""
        pair, ends = 0, [0, 0, 0]
        for row in np.fromfile(self._directory / BLOCKS, BLOCK):
            begins, ends = ends, [int(row[name]) for name in (SOURCE, TARGET, ALIGNMENT)]
            pairs = range(pair, pair + int(row["pairs"]))
            pair = pairs.stop
            yield Piece(int(row["corpus"]), pairs, tuple(zip(begins, ends, strict=True)))

    def read(self, piece: Piece) -> list[list[str]]:
        """Read the lines of a block: source, target, and alignments if there are any."""
        return [
            _read_part(self._directory / name, begin, end)
            for name, (begin, end) in zip(self._names, piece.texts, strict=False)
        ]


def _read_part(path: Path, begin: int, end: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(begin)
        content = file.read(end - begin)
    return content.decode().removesuffix("\n").split("\n") if content else []
