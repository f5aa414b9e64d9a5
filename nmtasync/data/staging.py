"""The first reading of a raw corpus: checked, cleaned, and set down for the later passes.

Inputs are read once, so pipes will do; what follows reads the staged copy. Besides it, only a
verdict and a key for each pair are held in memory: 9 bytes.
"""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from nmtasync.data.alignment import parse_alignment
from nmtasync.data.cleaning import Keys, Verdict, Verdicts, clean_line, judge_text, pair_key
from nmtasync.data.corpus import PairPaths, TextReader, read_together
from nmtasync.errors import UserError

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many pairs are done, and of how many if that is known."""

SOURCE_TEXT, TARGET_TEXT = "source.txt", "target.txt"
"""The text of a staged corpus. Beside the shards of an unfiltered one it stays: BLEU needs it."""

_ALIGNMENT_TEXT = "alignment.txt"
_REPORT_PAIRS = 10_000


@dataclass(frozen=True)
class Dropped:
    """Pairs that were dropped for one reason.

    Attributes:
        reason: Why.
        num_pairs: How many.
        example: File and line of the first.
    """

    reason: str
    num_pairs: int
    example: str


@dataclass(frozen=True)
class StagedCorpus:
    """A corpus that has been read and cleaned.

    Attributes:
        name: "train" or "valid".
        directory: Holds source.txt and target.txt, and alignment.txt if there are alignments, with
            a line for every pair that was read.
        files: The readers of what was read, by corpus: both sides, and their alignment.
        verdicts: A `Verdict` for each pair; later passes add theirs: [N].
        keys: A hash of each pair: [N].
    """

    name: str
    directory: Path
    files: list[list[TextReader]]
    verdicts: Verdicts
    keys: Keys

    def __len__(self) -> int:
        """Count the pairs that were read."""
        return len(self.verdicts)

    @property
    def num_kept(self) -> int:
        """Count the pairs that no pass has dropped so far."""
        return int(np.count_nonzero(self.verdicts == Verdict.KEPT))

    @property
    def aligned(self) -> bool:
        """Whether its words are aligned."""
        return (self.directory / _ALIGNMENT_TEXT).exists()

    def dropped(self) -> list[Dropped]:
        """Count the pairs dropped so far, by reason."""
        result = []
        for verdict in Verdict:
            pairs = np.flatnonzero(self.verdicts == verdict)
            if verdict != Verdict.KEPT and len(pairs):
                result.append(Dropped(verdict.reason, len(pairs), self._origin(int(pairs[0]))))
        return result

    def kept_pairs(self) -> Iterator[tuple[int, str, str, str]]:
        """Yield number, source, target and alignment of each pair that no pass has dropped so far.

        The alignment is as it was read; it is empty if there are none.
        """
        with contextlib.ExitStack() as stack:

            def read(name: str) -> Iterable[bytes]:
                return stack.enter_context((self.directory / name).open("rb"))

            verdicts = self.verdicts.tobytes()  # as they are now; later passes add theirs
            none = itertools.repeat(b"\n", len(self))
            alignments = read(_ALIGNMENT_TEXT) if self.aligned else none
            lines = zip(verdicts, read(SOURCE_TEXT), read(TARGET_TEXT), alignments, strict=True)
            for i, (verdict, source, target, alignment) in enumerate(lines):
                if verdict == Verdict.KEPT:
                    yield i, source[:-1].decode(), target[:-1].decode(), alignment[:-1].decode()

    def sample(self, most: int) -> Iterator[tuple[str, str]]:
        """Yield the kept pairs, or at most a number of them, spread evenly over the corpus."""
        total = self.num_kept
        size = min(most, total)
        for j, (_, source, target, _) in enumerate(self.kept_pairs()):
            if j * size // total != (j + 1) * size // total:
                yield source, target

    def count_shared(self, other: StagedCorpus) -> int:
        """Count the kept pairs that were also read in another corpus."""
        return int(np.isin(self.keys[self.verdicts == Verdict.KEPT], other.keys).sum())

    def _origin(self, pair: int) -> str:
        """Name the file and line of a pair's source side."""
        for source, *_ in self.files:
            if pair < source.num_lines:
                return f"{source.path}:{pair + 1}"
            pair -= source.num_lines
        raise AssertionError("no such pair")


def stage_corpus(
    name: str,
    corpora: Sequence[PairPaths],
    parent: Path,
    max_length: int | None,
    on_progress: OnProgress,
) -> StagedCorpus:
    """Read a corpus and set it down, cleaned.

    Args:
        name: "train" or "valid".
        corpora: Its files; all have alignments, or none has.
        parent: Where to make the directory of the copy.
        max_length: The most pieces of a side, to drop what is too long for any vocabulary; None
            keeps everything but empty sides.
        on_progress: Told how far it is.

    Raises:
        UserError: A file can't be used, or all of them are empty.
    """
    directory = parent / name
    directory.mkdir()
    files = [[TextReader(path) for path in paths.all()] for paths in corpora]
    verdicts, keys = bytearray(), array("Q")
    aligned = corpora[0].alignment is not None
    assert all((paths.alignment is not None) == aligned for paths in corpora)
    with contextlib.ExitStack() as stack:

        def write(name: str) -> TextIO:
            file = (directory / name).open("w", encoding="utf-8", newline="\n")
            return stack.enter_context(file)

        sources, targets = write(SOURCE_TEXT), write(TARGET_TEXT)
        alignments = write(_ALIGNMENT_TEXT) if aligned else None
        for readers in files:
            for left, right, *links in read_together(*readers):
                if alignments:
                    where = f"{readers[2].path}:{readers[2].num_lines}"
                    parse_alignment(links[0], left, right, where)  # only to complain early
                    alignments.write(clean_line(links[0]) + "\n")
                source, target = clean_line(left), clean_line(right)
                verdict = judge_text(source, target, max_length)
                if verdict == Verdict.TOO_LONG:
                    source = target = ""  # its verdict stays, its megabytes need not
                sources.write(source + "\n")
                targets.write(target + "\n")
                keys.append(pair_key(source, target))
                verdicts.append(verdict)
                if len(verdicts) % _REPORT_PAIRS == 0:
                    on_progress(f"reading ({name})", len(verdicts), None)
    if not verdicts:
        raise UserError("is empty", where=corpora[0].source, remedy="give a file with sentences")
    judged, hashed = np.frombuffer(verdicts, np.uint8), np.frombuffer(keys, np.uint64)
    return StagedCorpus(name, directory, files, judged, hashed)
