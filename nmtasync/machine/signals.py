"""Ctrl-C, SIGTERM and SIGHUP: the first one asks for an end, a second one does not wait for it.

Everywhere the first one ends the command with one line and its exit code (`stop_on_signals`);
while training goes on it asks for a save before that (`on_stop_signal`).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}
PREEMPTED = "preempted"
EXIT_CODES = {
    **{reason: 128 + number for number, reason in STOP_SIGNALS.items()},
    PREEMPTED: 128 + signal.SIGTERM,
}
SAVE_SIGNAL = signal.SIGUSR1
"""Asks training for a checkpoint now."""
_SHOW_CURSOR = "\x1b[?25h"


class StoppedBySignal(BaseException):
    """A signal has ended the command, wherever it was.

    Args:
        reason: Which one, as `EXIT_CODES` names it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def stop_on_signals() -> None:
    """From now on, raise `StoppedBySignal` at the first signal, and end at once at the next.

    In the middle of an import the process ends at once as well: nothing has been begun then,
    and importers turn exceptions into others. SIGHUP stays ignored under `nohup`.
    """
    _handle(_raise)
    signal.signal(SAVE_SIGNAL, signal.SIG_IGN)


def end_at_once_on_signals() -> None:
    """From now on, end without an exception: there is nothing left that could handle it."""
    _handle(_end_at_once)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in STOP_SIGNALS:
        if not _ignored(number):
            signal.signal(number, handler)


def _ignored(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _raise(number: int, frame: FrameType | None) -> None:
    end_at_once_on_signals()
    if _importing(frame):
        _end_at_once(number, frame)
    raise StoppedBySignal(STOP_SIGNALS[signal.Signals(number)])


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    reason = STOP_SIGNALS[signal.Signals(number)]
    tell_stopped(reason)
    os._exit(EXIT_CODES[reason])


def tell_stopped(reason: str) -> None:
    """Say in one line why the command ends; a signal may have interrupted other printing."""
    with contextlib.suppress(OSError):
        cursor = _SHOW_CURSOR if os.isatty(2) else ""
        os.write(2, f"{cursor}nmtasync: {reason}\n".encode())


def leave_signals_to_main() -> None:
    """Ignore in a child process what a terminal or a service manager sends to all processes."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def signals_kept_from_children() -> Iterator[None]:
    """While the context lasts, processes that are started never get the signals.

    This process gets those that come meanwhile when it ends.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def own_handlers_kept() -> Iterator[None]:
    """Put the handlers of the signals back when the context ends, whatever a library has put there.

    Only the main thread can; in another one nobody has changed them either.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def on_stop_signal(
    request: Callable[[str], None], preemption: str | None = None, grace: float | None = None
) -> Iterator[None]:
    """While the context lasts, call `request` with the reason at the first signal to stop.

    Args:
        request: Asks for an end.
        preemption: A further signal, "USR2" for example, by which a machine says that it will be
            taken away.
        grace: How many seconds the end may take from then on; after that this is as if a second
            signal had come.
    """
    reasons: dict[int, str] = {n: r for n, r in STOP_SIGNALS.items() if not _ignored(n)}
    if preemption is not None:
        reasons[signal.Signals[f"SIG{preemption}"]] = PREEMPTED
    previous = {number: signal.getsignal(number) for number in (*reasons, signal.SIGALRM)}

    def handle(number: int, frame: FrameType | None) -> None:
        reason = reasons[number]
        for each in STOP_SIGNALS:
            if each in previous:
                signal.signal(each, previous[each])
        if grace is not None:
            signal.signal(signal.SIGALRM, lambda *_: end(reason))
            signal.setitimer(signal.ITIMER_REAL, grace)
        request(reason)

    def end(reason: str) -> NoReturn:
        raise StoppedBySignal(reason)

    for number in reasons:
        signal.signal(number, handle)
    try:
        yield
    finally:
        if grace is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def on_save_signal(request: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, call `request` at SIGUSR1; before and after it means nothing."""
    previous = signal.signal(SAVE_SIGNAL, lambda number, frame: request())
    try:
        yield
    finally:
        signal.signal(SAVE_SIGNAL, previous)
