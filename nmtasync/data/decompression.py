"""Text files as bytes, whatever they are compressed with: that is known by their content.

Gzip, bzip2, xz and zstd are read, also several streams one after the other, as parallel tools
write them. Pipes work like files; "-" is standard input.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nmtasync.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STANDARD_INPUT = Path("-")
"""The name of standard input."""

BUFFER_BYTES = 1 << 18

_FORMATS: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
    b"\x28\xb5\x2f\xfd": ("zstd", zstd.ZstdFile),
}
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
}
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstd.ZstdError)


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


def is_stream(path: Path) -> bool:
    """Whether an input can be read only once: standard input, a pipe, a terminal."""
    return path == STANDARD_INPUT or (path.exists() and not (path.is_file() or path.is_dir()))


def check_input(path: Path) -> None:
    """Refuse a file that can't be opened, without reading it; pipes open only once.

    Raises:
        UserError: It is missing, a directory, or not readable.
    """
    if not is_stream(path):
        open_input(path).close()


@contextlib.contextmanager
def open_text(path: Path, hasher: hashlib._Hash) -> Iterator[BinaryIO]:
    """Open a text file, decompressed.

    Args:
        path: The file.
        hasher: Sees the bytes as they are on the disk.

    Raises:
        UserError: It can't be opened, or is an archive.
    """
    with contextlib.ExitStack() as stack:
        if path != STANDARD_INPUT:
            file = stack.enter_context(open_input(path))
        elif sys.stdin is not None:  # it is where it was closed before the start
            file = sys.stdin.buffer
        else:
            raise UserError("standard input is closed", where=path)
        buffered = io.BufferedReader(_HashingFile(file, hasher), BUFFER_BYTES)
        magic = buffered.peek(8)[:8]
        for start, name in _ARCHIVES.items():
            if magic.startswith(start):
                message = f"is {name}; plain text, gzip, bzip2, xz and zstd are read"
                raise UserError(message, where=path, remedy="unpack it first")
        for start, (_, decompressed) in _FORMATS.items():
            if magic.startswith(start):
                with decompressed(buffered) as content:
                    yield io.BufferedReader(content, BUFFER_BYTES)
                return
        yield buffered


@contextlib.contextmanager
def damage_explained(where: Callable[[], str]) -> Iterator[None]:
    """Turn what decompressing and reading raise into an error of one line.

    Args:
        where: Names the place that had been reached.

    Raises:
        UserError: The file is damaged, or can't be read.
    """
    remedy = "copy or download it again"
    try:
        yield
    except EOFError:
        message = "the file is cut off in the middle: its compressed stream has no end"
        raise UserError(message, where=where(), remedy=remedy) from None
    except _DAMAGE as error:
        raise UserError(f"is damaged: {error}", where=where(), remedy=remedy) from None
    except OSError as error:
        if error.errno is None:  # bzip2's
            raise UserError(f"is damaged: {error}", where=where(), remedy=remedy) from None
        raise UserError(f"can't be read: {error.strerror}", where=where()) from None


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
