"""Standard error and output that no terminal's end, and no terminal's alphabet, makes fail."""

from __future__ import annotations

import contextlib
import io
import os
import sys


class _Unfailing(io.RawIOBase):
    """A file descriptor to which what can't be written is dropped: its reader has left."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        """Say that it is for writing."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether a terminal reads it."""
        return os.isatty(self._descriptor)

    def write(self, data: object) -> int:
        """Write all, or drop it."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        written = 0
        with contextlib.suppress(OSError):
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
        return len(view)


def make_streams_robust() -> None:
    """Let messages on standard error never fail, and no character of a report either.

    What goes to standard output is a result: if it can't be written, that stays an error.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        raw = _Unfailing(sys.stderr.fileno())
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
            write_through=True,
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
