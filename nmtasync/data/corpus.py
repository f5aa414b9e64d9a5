"""Parallel text as users have it: two files, or one of two columns, one sentence a line.

Only a line feed ends a line (a carriage return before it belongs to the line's end). Other
characters that Unicode calls line separators stay inside their line, so that both sides
keep their numbering, as in every tool of the field.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nmtasync.data.decompression import BUFFER_BYTES, damage_explained, open_text
from nmtasync.data.shards import MAX_WEIGHT
from nmtasync.errors import UserError

_BYTE_ORDER_MARK = "\ufeff"
MAX_LINE_BYTES = 16 << 20
_LINE_FEED = 10
_CORPUS = re.compile(r"([^=]+)=([^,]+?)(?:,([^,]+?))?(?:@([0-9.eE+-]+))?", re.DOTALL)


@dataclass(frozen=True)
class PairPaths:
    """The files of a parallel corpus.

    Attributes:
        source: One side, or both in two columns with a tab between them, if there is no `target`.
        target: The other; line i of it translates line i of `source`.
        alignment: The links between their words, line by line, if they are known.
        name: What reports call it; None for the name of its file.
        weight: How many times each of its pairs is used an epoch, and how much its text counts
            where the vocabulary is learned.
    """

    source: Path
    target: Path | None
    alignment: Path | None = None
    name: str | None = None
    weight: float = 1.0

    def all(self) -> list[Path]:
        """List the files that there are."""
        return [path for path in (self.source, self.target, self.alignment) if path is not None]


def parse_corpus(text: str) -> PairPaths:
    """Read the description of a corpus: NAME=SRC,TGT[@WEIGHT], or NAME=FILE[@WEIGHT].

    Raises:
        UserError: It is none.
    """
    match = _CORPUS.fullmatch(text)
    if match is None:
        raise UserError(
            "is no corpus",
            where=text,
            remedy="write NAME=SRC,TGT or NAME=FILE, and @WEIGHT after it if it has one",
        )
    name, source, target, weight = match.groups()
    try:
        value = 1.0 if weight is None else float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_WEIGHT:
        message = f"the weight must be a number above 0 and at most {MAX_WEIGHT:g}"
        raise UserError(message, where=text)
    there = None if target is None else Path(target)
    return PairPaths(Path(source), there, name=name, weight=value)


class TextReader:
    """Reads a text file once, from start to end, and hashes what it reads.

    What it is compressed with is recognised by its content, so pipes work, too.

    Args:
        path: The file; "-" is standard input.

    Attributes:
        num_lines: Lines read so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_lines = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of the file's bytes, as they are on the disk; whole once all is read."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[str]:
        """Yield the lines, without their ends.

        Raises:
            UserError: The file can't be read, is damaged, or is no UTF-8 text; with the line.
        """
        for start, (content,) in read_blocks([self], 1 << 12, BUFFER_BYTES):
            for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start):
                yield decode_line(raw, f"{self.path}:{number}", first=number == 1)

    @contextlib.contextmanager
    def open(self) -> Iterator[_Lines]:
        """Open the file for reading lines.

        Raises:
            UserError: The file can't be read or is damaged.
        """
        with open_text(self.path, self._hash) as file:
            yield _Lines(file, self)


class _Lines:
    """The lines of an open file, of which several can be looked at before any is taken."""

    def __init__(self, file: BinaryIO, reader: TextReader) -> None:
        self._file = file
        self._reader = reader
        self._buffer = b""
        self._start = 0
        self._ends = np.empty(0, np.int64)
        self._next = 0
        self._ended = False

    def available(self, most_lines: int, most_bytes: int) -> int:
        """Count the lines that can be taken now, 0 at the end; arguments as of `read_blocks`."""
        has_line = self._next < len(self._ends)
        if not self._ended and (not has_line or len(self._buffer) - self._start < most_bytes):
            self._fill(2 * most_bytes)
        bound = np.searchsorted(self._ends, self._start + most_bytes, side="right")
        count = max(int(bound) - self._next, int(self._next < len(self._ends)))
        return min(most_lines, count)

    def _fill(self, num_bytes: int) -> None:
        """Read on until so many bytes are there, and a whole line, or all of the file."""
        parts = [self._buffer[self._start :]]
        size, has_line = len(parts[0]), b"\n" in parts[0]
        where = f"{self._reader.path}:{self._reader.num_lines + 1}"
        while not self._ended and (size < num_bytes or not has_line):
            if not has_line and size > MAX_LINE_BYTES:
                message = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
                raise UserError(message, where=where, remedy="give text with a sentence a line")
            with damage_explained(lambda: where):
                part = self._file.read(BUFFER_BYTES)
            if not part:
                self._ended = True
                part = b"" if size == 0 or parts[-1].endswith(b"\n") else b"\n"
            has_line = has_line or b"\n" in part
            size += len(part)
            parts.append(part)
        self._buffer, self._start, self._next = b"".join(parts), 0, 0
        self._ends = np.flatnonzero(np.frombuffer(self._buffer, np.uint8) == _LINE_FEED) + 1

    def take(self, num_lines: int) -> bytes:
        """Take lines that are available."""
        self._next += num_lines
        begin, self._start = self._start, int(self._ends[self._next - 1])
        return self._buffer[begin : self._start]


def decode_line(raw: bytes, where: str, *, first: bool) -> str:
    """Decode a line of a text file, and take its end off.

    Args:
        raw: The line, with or without its end.
        where: What an error names as its place.
        first: Whether a byte order mark may precede it, which is dropped.

    Raises:
        UserError: It is no UTF-8 text.
    """
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        byte, column = error.object[error.start], error.start + 1
        raise UserError(
            f"invalid UTF-8: byte 0x{byte:02x} at byte {column} of the line",
            where=where,
            remedy="convert it to UTF-8, for example with iconv, or remove the line",
        ) from None
    if "\0" in text:
        remedy = "convert it to UTF-8 if it is UTF-16, or remove the line"
        raise UserError("the line holds a NUL character", where=where, remedy=remedy)
    return text.lstrip(_BYTE_ORDER_MARK) if first else text


def decode_lines(block: bytes, path: Path, start: int) -> list[str]:
    """Decode whole lines, as `read_blocks` yields them.

    Args:
        block: The lines.
        path: Their file.
        start: The number of the first one, from 1 on.

    Raises:
        UserError: One is no UTF-8 text.
    """
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"  # find the line
    if start == 1 or "\0" in text or "\r" in text:
        lines = block.removesuffix(b"\n").split(b"\n")
        return [decode_line(x, f"{path}:{i}", first=i == 1) for i, x in enumerate(lines, start)]
    return text.removesuffix("\n").split("\n")


def read_together(*readers: TextReader) -> Iterator[tuple[str, ...]]:
    """Read files side by side.

    Raises:
        UserError: They differ in length, or as `TextReader`.
    """
    together = itertools.zip_longest(*readers)
    for lines in together:
        if None in lines:
            for _ in together:
                pass  # count the rest
            raise _unequal(readers)
        yield lines


def read_blocks(
    readers: Sequence[TextReader], most_lines: int, most_bytes: int
) -> Iterator[tuple[int, list[bytes]]]:
    """Read files side by side, whole lines together.

    Where blocks end depends on the files' content alone. The last line of a file gets a line feed
    if it has none.

    Args:
        readers: The files.
        most_lines: So many lines at a time.
        most_bytes: Fewer, if they have more bytes than this in one file; but one at least.

    Yields:
        The number of the first line, from 1 on, and as many lines of each file.

    Raises:
        UserError: They differ in length, or one can't be read or is damaged.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(reader.open()) for reader in readers]
        while True:
            counts = [lines.available(most_lines, most_bytes) for lines in files]
            count = min(counts)
            if count == 0:
                break
            start = readers[0].num_lines + 1
            block = [lines.take(count) for lines in files]
            for reader in readers:
                reader.num_lines += count
            yield start, block
        if any(counts):
            for lines, reader in zip(files, readers, strict=True):
                while count := lines.available(most_lines, most_bytes):
                    lines.take(count)
                    reader.num_lines += count
            raise _unequal(readers)


def _unequal(readers: Sequence[TextReader]) -> UserError:
    """Build the error that says how files differ in length, after all have been read."""
    shortest, *_, longest = sorted(readers, key=lambda reader: reader.num_lines)
    first, *others = (f"{reader.path} has {reader.num_lines:,}" for reader in readers)
    return UserError(
        f"this line has no partner: {first} lines, {', '.join(others)}",
        where=f"{longest.path}:{shortest.num_lines + 1}",
        remedy="give files that correspond to each other line by line",
    )


def read_lines(path: Path) -> list[str]:
    """Read a whole text file; errors as of `TextReader`."""
    return list(TextReader(path))
