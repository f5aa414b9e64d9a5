"""The installed command: signals are caught before anything is imported that takes time."""

from __future__ import annotations

import sys
import threading

from nmtasync.machine.signals import (
    EXIT_CODES,
    StoppedBySignal,
    end_at_once_on_signals,
    stop_on_signals,
    tell_stopped,
)

from .streams import make_streams_robust


def _leave_errors_to_who_waits(error: threading.ExceptHookArgs) -> None:
    """Print no traceback of a thread: those of TensorBoard are told when it is next written to."""


def main() -> None:
    """Run the command line, from its first moment on as it should be."""
    try:
        stop_on_signals()
        make_streams_robust()
        threading.excepthook = _leave_errors_to_who_waits
        from .main import main as run_command_line

        try:
            run_command_line()
        finally:
            end_at_once_on_signals()
    except StoppedBySignal as stop:
        tell_stopped(stop.reason)
        sys.exit(EXIT_CODES[stop.reason])
