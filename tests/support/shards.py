"""Binarised corpora made of lists of ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nmtasync.data.alignment import Links
from nmtasync.data.shards import LINK, CorpusPart
from nmtasync.data.shards_writer import ShardsWriter, forget_journal, pack

Ids = Sequence[Sequence[int]]


def append(
    writer: ShardsWriter,
    sources: Ids,
    targets: Ids,
    links: Sequence[Links] | None = None,
    state: object = None,
    texts: tuple[bytes, bytes] | None = None,
) -> None:
    sides = [
        pack(side, dtype) for side, dtype in zip((sources, targets), writer.dtypes, strict=True)
    ]
    writer.append(sides if links is None else [*sides, pack(links, LINK)], state, texts)


def write_shards(
    directory: Path,
    sources: Ids,
    targets: Ids,
    size: int = 100,
    *,
    links: Sequence[Links] | None = None,
    corpora: Sequence[CorpusPart] | None = None,
) -> None:
    """Write a corpus, with ids below `size` on both sides."""
    with ShardsWriter(directory, size, size, aligned=links is not None) as writer:
        append(writer, sources, targets, links)
        writer.finish(corpora=corpora)
    forget_journal(directory)
