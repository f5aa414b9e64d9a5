"""Ctrl-C and SIGTERM: the first one asks for a save and an end, a second one is not caught."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
EXIT_CODES = {"interrupted": 130, "terminated": 143}


def leave_signals_to_main() -> None:
    """Ignore in a child process what a terminal or a service manager sends to all processes."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def on_stop_signal(request: Callable[[str], None]) -> Iterator[None]:
    """While the context lasts, call `request` with the reason at the first signal to stop."""
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)
        request(STOP_SIGNALS[signal.Signals(number)])

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
