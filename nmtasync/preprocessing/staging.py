"""The first pass over a raw corpus: read, checked, cleaned, and set down for the later passes.

Inputs are read once, so pipes will do; what follows reads the staged copy, which holds the pairs
that no rule about their text has dropped. Nothing grows in memory with the corpus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.data.corpus import PairPaths, TextReader, read_blocks
from nmtasync.data.journaled_files import JournaledFiles
from nmtasync.errors import UserError
from nmtasync.machine.ordered_pool import OrderedPool
from nmtasync.preprocessing.clean_block import Block, BlockCleaner, CleanBlock
from nmtasync.preprocessing.dropped import Dropped, add_to_state, from_state
from nmtasync.preprocessing.duplicates import KEY, Keys
from nmtasync.preprocessing.rules import Verdict, Verdicts
from nmtasync.preprocessing.staged_texts import (
    ALIGNMENT,
    BLOCK,
    BLOCKS,
    SOURCE,
    TARGET,
    Piece,
    StagedTexts,
)

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many pairs are done, and of how many if that is known."""

BLOCK_PAIRS, BLOCK_BYTES = 10_000, 4 << 20

PAIR_KEYS, SIDE_KEYS = "pairs.keys", ("source.keys", "target.keys")
REJECTED = "rejected"
_LINES, _JOURNAL = "lines", "journal.json"
_LINE = np.dtype("<u8")


@dataclass(frozen=True)
class InputFile:
    """A file that has been read.

    Attributes:
        path: Where it is.
        side: "source", "target", "alignment", or "both" for two columns.
        corpus: Of which corpus, by its number.
        sha256: The hash of its bytes.
        lines: How many it has.
    """

    path: str
    side: str
    corpus: int
    sha256: str
    lines: int


class StagedCorpus:
    """A corpus that has been read and cleaned.

    Args:
        name: "train" or "valid".
        directory: Where its files are.
        paths: What it was read from.
        state: How the last commit of `stage_corpus` describes it.

    Attributes:
        verdicts: A `Verdict` for each staged pair; later passes add theirs: [N].
        keys: A hash of each pair: [N].
        files: What was read.
        num_read: Pairs that were read.
        dropped: Those that were not staged, by reason.
        aligned: Whether words are aligned.
        texts: The text, block by block.
        lines: Which line of its file each pair is: [N].
    """

    def __init__(
        self, name: str, directory: Path, paths: Sequence[PairPaths], state: dict[str, Any]
    ) -> None:
        self.name = name
        self.directory = directory
        self.paths = paths
        self.files = [InputFile(**entry) for entry in state["files"]]
        self.num_read: int = state["read"]
        self.dropped = from_state(state["dropped"])
        self.aligned = paths[0].alignment is not None
        self.texts = StagedTexts(directory, aligned=self.aligned)
        self.keys: Keys = self._map(PAIR_KEYS, KEY)
        self.lines = self._map(_LINES, _LINE)
        # In a file, not in memory: it is as long as the corpus.
        self.verdicts: Verdicts = np.zeros(0, np.uint8)
        if len(self):
            place = directory / "verdicts"
            self.verdicts = np.memmap(place, np.uint8, "w+", shape=(len(self),))

    def _map(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        path = self.directory / name
        if path.stat().st_size == 0:  # an empty file can't be mapped
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r")

    def __len__(self) -> int:
        """Count the staged pairs."""
        return len(self.keys)

    def name_of(self, corpus: int) -> str:
        """What reports call one of its corpora."""
        paths = self.paths[corpus]
        return paths.source.name if paths.name is None else paths.name

    def side_keys(self, side: int) -> Keys:
        """The hashes of all source sentences (0) or target sentences (1), if asked for: [N]."""
        return self._map(SIDE_KEYS[side], KEY)

    @property
    def num_kept(self) -> int:
        """Count the pairs that no pass has dropped so far."""
        return len(self) - int(np.count_nonzero(self.verdicts))

    def where(self, piece: Piece, i: int) -> str:
        """Name file and line of the source side of one pair of a block."""
        return f"{self.paths[piece.corpus].source}:{self.lines[piece.pairs.start + i]}"

    def count_pairs(self) -> list[int]:
        """Count the pairs of each corpus that no pass has dropped so far."""
        counts = [0] * len(self.paths)
        for piece in self.texts.pieces():
            verdicts = self.verdicts[piece.pairs.start : piece.pairs.stop]
            counts[piece.corpus] += len(piece.pairs) - int(np.count_nonzero(verdicts))
        return counts

    def dropped_later(self) -> list[Dropped]:
        """Describe what passes over the staged pairs have dropped."""
        dropped: dict[int, Dropped] = {}
        for piece in self.texts.pieces():
            verdicts = self.verdicts[piece.pairs.start : piece.pairs.stop]
            for verdict, first, count in zip(
                *np.unique(verdicts, return_index=True, return_counts=True), strict=True
            ):
                if verdict not in dropped and verdict != Verdict.KEPT:
                    source, target, *_ = (lines[first] for lines in self.texts.read(piece))
                    where = self.where(piece, first)
                    one = Dropped.one(Verdict(verdict), where, source, target)
                    dropped[verdict] = dataclasses.replace(one, num_pairs=0)
                if verdict != Verdict.KEPT:
                    so_far = dropped[verdict]
                    dropped[verdict] = dataclasses.replace(
                        so_far, num_pairs=so_far.num_pairs + int(count)
                    )
        return list(dropped.values())


def stage_corpus(
    name: str,
    corpora: Sequence[PairPaths],
    parent: Path,
    cleaner: BlockCleaner,
    pool: OrderedPool,
    on_progress: OnProgress,
) -> StagedCorpus:
    """Read a corpus and set it down, cleaned; goes on where an earlier call was cut off.

    Args:
        name: "train" or "valid".
        corpora: Its files; all have alignments, or none has.
        parent: Where the directory of the copy is, or shall be.
        cleaner: How to clean.
        pool: The processes that work on it.
        on_progress: Told how far it is.

    Raises:
        UserError: A file can't be used, or all of them are empty.
    """
    directory = parent / name
    directory.mkdir(exist_ok=True)
    names = [SOURCE, TARGET, ALIGNMENT, PAIR_KEYS, *SIDE_KEYS, _LINES, BLOCKS, REJECTED]
    readers = [[TextReader(path) for path in paths.all()] for paths in corpora]
    with JournaledFiles(directory, names, _JOURNAL) as files:
        state = files.state or {"corpus": 0, "line": 1, "read": 0, "dropped": [], "files": None}
        if state["files"] is None:
            blocks = _blocks(corpora, readers, state["corpus"], state["line"])
            for block in pool.map(cleaner, blocks):
                contents = _contents(block, files.sizes)
                state = {
                    "corpus": block.corpus,
                    "line": block.start + block.num_pairs,
                    "read": state["read"] + block.num_pairs,
                    "dropped": add_to_state(state["dropped"], block.dropped),
                    "files": None,
                }
                files.append(contents, state)
                on_progress(f"reading ({name})", state["read"], None)
            state = {**state, "files": _describe(corpora, readers)}
            files.commit(state)
    if not state["read"]:
        where = corpora[0].source
        raise UserError("is empty", where=where, remedy="give a file with sentences")
    return StagedCorpus(name, directory, corpora, state)


def _blocks(
    corpora: Sequence[PairPaths], readers: Sequence[Sequence[TextReader]], corpus: int, line: int
) -> Iterator[Block]:
    """Read all corpora, and yield the blocks from a line of one of them on."""
    for number, (paths, files) in enumerate(zip(corpora, readers, strict=True)):
        for start, texts in read_blocks(files, BLOCK_PAIRS, BLOCK_BYTES):
            if (number, start) >= (corpus, line):
                yield Block(number, start, paths, texts)


def _contents(block: CleanBlock, sizes: dict[str, int]) -> dict[str, bytes]:
    """What a block appends to the files, which have these sizes before it."""
    ends = (sizes[name] + len(block.contents[name]) for name in (SOURCE, TARGET, ALIGNMENT))
    row = np.array([(block.corpus, block.num_staged, *ends)], BLOCK)
    return {
        **block.contents,
        _LINES: block.lines.astype(_LINE).tobytes(),
        BLOCKS: row.tobytes(),
    }


def _describe(
    corpora: Sequence[PairPaths], readers: Sequence[Sequence[TextReader]]
) -> list[dict[str, Any]]:
    return [
        dataclasses.asdict(
            InputFile(str(file.path.absolute()), side, number, file.sha256, file.num_lines)
        )
        for number, (paths, files) in enumerate(zip(corpora, readers, strict=True))
        for side, file in zip(_sides(paths), files, strict=True)
    ]


def _sides(paths: PairPaths) -> list[str]:
    text = ["both"] if paths.target is None else [SOURCE, TARGET]
    return text if paths.alignment is None else [*text, ALIGNMENT]
