"""Parallel text as users have it: two files, plain or gzipped, one sentence a line.

Only a line feed ends a line (a carriage return before it belongs to the line's end). Other
characters that Unicode calls line separators stay inside their line, so that both sides
keep their numbering, as in every tool of the field.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nmtasync.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_OTHER_MAGIC = {
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}
_BYTE_ORDER_MARK = "\ufeff"
_BUFFER_BYTES = 1 << 18
_MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True)
class PairPaths:
    """The files of a parallel corpus.

    Attributes:
        source: One side.
        target: The other; line i of it translates line i of `source`.
        alignment: The links between their words, line by line, if they are known.
    """

    source: Path
    target: Path
    alignment: Path | None = None

    def all(self) -> list[Path]:
        """List the files that there are."""
        return [path for path in (self.source, self.target, self.alignment) if path is not None]


class TextReader:
    """Reads a text file once, from start to end, and hashes what it reads.

    Gzip is recognised by its content, so pipes work, with or without compression.

    Args:
        path: The file.

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
        with open_input(self.path) as file:
            buffered = io.BufferedReader(_HashingFile(file, self._hash), _BUFFER_BYTES)
            magic = buffered.peek(8)[:8]
            for start, name in _OTHER_MAGIC.items():
                if magic.startswith(start):
                    message = f"is compressed with {name}; only plain text and gzip are read"
                    raise UserError(message, where=self.path, remedy="decompress it first")
            if magic.startswith(_GZIP_MAGIC):
                with gzip.GzipFile(fileobj=buffered) as unzipped:
                    yield from self._lines(io.BufferedReader(unzipped, _BUFFER_BYTES))
            else:
                yield from self._lines(buffered)

    def _lines(self, file: BinaryIO | gzip.GzipFile) -> Iterator[str]:
        try:
            while raw := file.readline(_MAX_LINE_BYTES + 1):
                self.num_lines += 1
                if len(raw) > _MAX_LINE_BYTES:
                    raise UserError(
                        f"the line is longer than {_MAX_LINE_BYTES >> 20} MiB",
                        where=f"{self.path}:{self.num_lines}",
                        remedy="give text with a sentence a line",
                    )
                yield decode_line(raw, f"{self.path}:{self.num_lines}", first=self.num_lines == 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            message = f"is damaged: {error}"
            if isinstance(error, EOFError):
                message = "the file is cut off in the middle: its gzip stream has no end"
            where, remedy = f"{self.path}:{self.num_lines + 1}", "copy or download it again"
            raise UserError(message, where=where, remedy=remedy) from None
        except OSError as error:
            raise UserError(f"can't be read: {error.strerror}", where=self.path) from None


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


def _unequal(readers: Sequence[TextReader]) -> UserError:
    """Build the error that says how files differ in length, after all have been read."""
    shortest, *_, longest = sorted(readers, key=lambda reader: reader.num_lines)
    first, *others = (f"{reader.path} has {reader.num_lines:,}" for reader in readers)
    return UserError(
        f"this line has no partner: {first} lines, {', '.join(others)}",
        where=f"{longest.path}:{shortest.num_lines + 1}",
        remedy="give files that correspond to each other line by line",
    )


def open_input(path: Path) -> BinaryIO:
    """Open a file that the user has named.

    Raises:
        UserError: It is missing, a directory, or not readable.
    """
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise UserError("there is no such file", where=path, remedy="check the path") from None
    except IsADirectoryError:
        raise UserError("is a directory, not a text file", where=path) from None
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", where=path) from None


def check_input(path: Path) -> None:
    """Refuse a file that can't be opened, without reading it; pipes open only once.

    Raises:
        UserError: It is missing, a directory, or not readable.
    """
    if not path.is_fifo():
        open_input(path).close()


def read_lines(path: Path) -> list[str]:
    """Read a whole text file, plain or gzipped; errors as of `TextReader`."""
    return list(TextReader(path))


class _HashingFile(io.RawIOBase):
    """A raw file whose bytes pass through a hash on their way."""

    def __init__(self, file: BinaryIO, hasher: hashlib._Hash) -> None:
        self._file = file
        self._hash = hasher

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        return len(data)
