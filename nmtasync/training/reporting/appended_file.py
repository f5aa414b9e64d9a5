"""A log to which lines are appended: what a full disk refuses waits until there is room again."""

from __future__ import annotations

import os
from pathlib import Path

from nmtasync.run_directory import explain_write_errors

_MANY_BYTES = 1 << 16


class AppendedFile:
    """A file that only grows.

    Args:
        path: Where it lies; its folder is made.
        length: Cut it off there first, in bytes; None is not at all.

    Raises:
        UserError, NmtasyncError: It can't be opened.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        self._waiting = bytearray()
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            if length is not None:
                self._file.truncate(length)
            self._length = os.fstat(self._file.fileno()).st_size

    def append(self, line: bytes) -> None:
        """Add a line, which is written with others, and kept if it can't be written."""
        self._waiting += line
        if len(self._waiting) >= _MANY_BYTES:
            self.try_to_flush()

    def try_to_flush(self) -> OSError | None:
        """Bring to the file what can be; return what was in the way."""
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._length += written
                del self._waiting[:written]
        except OSError as error:
            return error
        return None

    def flush(self) -> int:
        """Bring everything to the file, and return its length in bytes.

        Raises:
            UserError, NmtasyncError: It can't be written; nothing is lost.
        """
        with explain_write_errors(self.path):
            if error := self.try_to_flush():
                raise error
        return self._length

    def close(self) -> None:
        """Write what can be written, and close the file."""
        self.try_to_flush()
        self._file.close()
