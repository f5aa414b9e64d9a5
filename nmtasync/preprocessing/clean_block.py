"""What is done to some thousand lines of raw text at a time, by one of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtasync.config.schema import DataConfig
from nmtasync.data.alignment import parse_alignment
from nmtasync.data.cleaning import clean_line, clean_lines
from nmtasync.data.corpus import PairPaths, decode_lines
from nmtasync.errors import UserError
from nmtasync.preprocessing.dropped import Dropped, merged, rejected_line
from nmtasync.preprocessing.duplicates import pair_keys, text_keys
from nmtasync.preprocessing.rules import TextRules, Verdict, Verdicts


@dataclass(frozen=True)
class Block:
    """Lines of a corpus as they were read.

    Attributes:
        corpus: The number of the corpus.
        start: The number of the first line, from 1 on.
        paths: The files of the corpus.
        texts: As many lines of each file.
    """

    corpus: int
    start: int
    paths: PairPaths
    texts: Sequence[bytes]


@dataclass(frozen=True)
class CleanBlock:
    """What has become of a block.

    Attributes:
        corpus: As of the block.
        start: As of the block.
        num_pairs: Its pairs.
        num_staged: Those that no rule has dropped.
        contents: Of these, what is appended to files, by their names.
        lines: Of these, the numbers of their lines.
        dropped: The others, by reason.
    """

    corpus: int
    start: int
    num_pairs: int
    num_staged: int
    contents: dict[str, bytes]
    lines: npt.NDArray[np.int64]
    dropped: list[Dropped]


class BlockCleaner:
    """Cleans blocks.

    Args:
        config: Which rules hold.
        filters: Whether it is a training corpus; of others only pairs with an empty side go.
        side_keys: Whether single sides are looked for in others.
        keep_rejected: Whether to keep the text of what is dropped.
    """

    def __init__(
        self, config: DataConfig, *, filters: bool, side_keys: bool, keep_rejected: bool
    ) -> None:
        self._keep_rejected = keep_rejected
        self._rules = TextRules(config, filters=filters)
        self._side_keys = side_keys

    def __call__(self, block: Block) -> CleanBlock:
        """Decode, clean and judge a block.

        Raises:
            UserError: A line is no text, or has no second column, or links are wrong.
        """
        sides, alignments = _decode(block)
        if alignments:
            _check_alignments(block, sides, alignments)
        sources, targets = map(clean_lines, sides)
        verdicts = self._rules.judge(sources, targets)
        dropped, rejected = self._drop(block, verdicts, sources, targets)
        kept = np.flatnonzero(verdicts == Verdict.KEPT)
        sources, targets = ([side[i] for i in kept] for side in (sources, targets))
        side_keys = [b"", b""]
        if self._side_keys:
            side_keys = [text_keys(side) for side in (sources, targets)]
        contents = {
            "source": _lines(sources),
            "target": _lines(targets),
            "alignment": _lines([clean_line(alignments[i]) for i in kept]) if alignments else b"",
            "pairs.keys": pair_keys(sources, targets),
            "source.keys": side_keys[0],
            "target.keys": side_keys[1],
            "rejected": rejected.encode("utf-8", "surrogateescape"),
        }
        return CleanBlock(
            block.corpus,
            block.start,
            len(verdicts),
            len(kept),
            contents,
            kept + block.start,
            dropped,
        )

    def _drop(
        self, block: Block, verdicts: Verdicts, sources: Sequence[str], targets: Sequence[str]
    ) -> tuple[list[Dropped], str]:
        """Count what is dropped, and write it down if it is to be kept."""
        dropped, rejected = [], []
        for i in np.flatnonzero(verdicts).tolist():
            verdict = Verdict(verdicts[i])
            pair = verdict, f"{block.paths.source}:{block.start + i}", sources[i], targets[i]
            dropped.append(Dropped.one(*pair))
            if self._keep_rejected:
                rejected.append(rejected_line(*pair))
        return merged([dropped]), "".join(rejected)


def _decode(block: Block) -> tuple[list[list[str]], list[str]]:
    """Return both sides, and the alignments if there are any."""
    paths = block.paths.all()
    columns = [
        decode_lines(text, path, block.start) for text, path in zip(block.texts, paths, strict=True)
    ]
    if block.paths.target is None:
        columns[:1] = _split_columns(columns[0], paths[0], block.start)
    return columns[:2], columns[2] if len(columns) > 2 else []


def _split_columns(lines: list[str], path: Path, start: int) -> list[list[str]]:
    """Cut lines at tabs; what follows a second one, as scores do, is no text."""
    sides: list[list[str]] = [[], []]
    for number, line in enumerate(lines, start):
        columns = line.split("\t", 2)
        if len(columns) < 2:
            raise UserError(
                "the line has no tab between a source and a target side",
                where=f"{path}:{number}",
                remedy="write each pair as SOURCE<tab>TARGET",
            )
        for side, column in zip(sides, columns, strict=False):
            side.append(column)
    return sides


def _check_alignments(
    block: Block, sides: Sequence[Sequence[str]], alignments: Sequence[str]
) -> None:
    """Complain now of links that can't be read."""
    path = block.paths.alignment
    for number, (links, source, target) in enumerate(
        zip(alignments, *sides, strict=True), block.start
    ):
        parse_alignment(links, source, target, where=f"{path}:{number}")


def _lines(lines: Sequence[str]) -> bytes:
    return "\n".join([*lines, ""]).encode()
