"""Child processes: how they are started, talked to and ended, and what they died of.

None outlives the main process: whoever is still about to save after a `kill -9` of it would write
into a RUN that belongs to the next command.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nmtasync.machine.fork_server import process_context
from nmtasync.machine.orphans import end_with_parent
from nmtasync.machine.signals import leave_signals_to_main

POLL_SECONDS = 0.2
"""How often the main process looks at limits and signals while no child has anything to say."""


STACKS_SIGNAL = signal.SIGUSR1
"""Asks a child process to write down where it is."""
STACKS_SECONDS, STACKS_BYTES = 1.0, 1 << 20


@dataclass(frozen=True)
class Failure:
    """The last message of a process that ends because of an error.

    Attributes:
        text: The traceback.
    """

    text: str


class ChildEndedError(Exception):
    """A child process has ended, or is about to.

    Args:
        child: Which.
    """

    def __init__(self, child: Child) -> None:
        super().__init__(child.name)
        self.child = child


class _InheritedFile:
    """A file descriptor that a child process gets a copy of."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_inherited, (reduction.DupFd(self.descriptor),)


def _open_inherited(duplicate: Any) -> _InheritedFile:
    return _InheritedFile(duplicate.detach())


def _serve(
    serve: Callable[[Any, Connection], None],
    setup: object,
    connection: Connection,
    stacks: _InheritedFile,
) -> None:
    """Run a child process, whose stacks are written down when it crashes or is asked for them."""
    faulthandler.enable(stacks.descriptor)
    faulthandler.register(STACKS_SIGNAL, stacks.descriptor, all_threads=True)
    serve(setup, connection)


class Child:
    """A child process and this end of the pipe to it.

    Args:
        serve: What the process runs: a function of `setup` and its end of the pipe.
        setup: What the process needs to know at its start.
        name: Of the process.

    Attributes:
        connection: This end of the pipe.
        last_words: The traceback that the process left, if any.
        silent_seconds: For how long it had been silent when it was ended for that.
    """

    def __init__(self, serve: Callable[[Any, Connection], None], setup: object, name: str) -> None:
        context = process_context()
        self.name = name
        self.last_words = ""
        self.silent_seconds: float | None = None
        self.connection, there = context.Pipe()
        self._stacks = os.fdopen(os.memfd_create(f"stacks of {name}"), "rb")
        arguments = serve, setup, there, _InheritedFile(self._stacks.fileno())
        self.process = context.Process(target=_serve, args=arguments, name=name, daemon=True)
        self.process.start()
        there.close()  # so that the pipe ends when the process does

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            ChildEndedError: The process has ended.
        """
        try:
            self.connection.send(message)
        except OSError:
            raise ChildEndedError(self) from None

    def receive(self) -> Any:
        """Take one message.

        Raises:
            ChildEndedError: The process has failed or ended.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            raise ChildEndedError(self) from None
        if isinstance(message, Failure):
            self.last_words = message.text
            raise ChildEndedError(self)
        return message

    def end(self) -> None:
        """End the process at once; what it was writing is whole or not there."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def end_silent(self, seconds: float) -> None:
        """End a process that hangs, or was stopped; its stacks, if it can write them, stay.

        Args:
            seconds: For how long it has been silent.
        """
        self.silent_seconds = seconds
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, STACKS_SIGNAL)
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.join(STACKS_SECONDS)
        self.end()

    def _read_stacks(self) -> bytes:
        self._stacks.seek(0)
        return self._stacks.read(STACKS_BYTES)

    def cause_of_death(self, log: Path) -> str:
        """Return what ended the process, and keep the traceback that it left.

        Args:
            log: Where to keep it.

        Returns:
            What follows its name, for example "was killed by signal 9".
        """
        if output := self.last_output():
            keep_last_words(log, output)
        if self.last_words:
            return f"failed: {self.last_words.strip().splitlines()[-1]}"
        if self.silent_seconds is not None:
            return f"said nothing for {self.silent_seconds:.0f} s and was ended, see {log}"
        return self.end_of_process()

    def last_output(self) -> str:
        """Return the traceback and the stacks that the process has left, if any."""
        stacks = self._read_stacks().decode("utf-8", "replace")
        return f"{self.last_words}\n{stacks}".strip("\n")

    def end_of_process(self) -> str:
        """Return how the process, which has ended, did so: "was killed by signal 9 (SIGKILL)"."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"


def keep_last_words(log: Path, text: str) -> None:
    """Add what a process has left to a file, if that can be written."""
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")


def end_all_silent(children: list[Child], seconds: float) -> Child:
    """End processes that wait for each other; return one that was stopped, or else the first."""
    stopped = [child for child in children if _is_stopped(child.process.pid)]
    for child in children:
        child.end_silent(seconds)
    return (stopped or children)[0]


def _is_stopped(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith(("T", "t"))
    except OSError:
        return False


def end_all(children: Iterable[Child]) -> None:
    """End processes at once; all are killed before the first is waited for."""
    children = list(children)
    for child in children:
        child.process.kill()
    for child in children:
        child.end()


@contextlib.contextmanager
def serving(connection: Connection) -> Iterator[None]:
    """While the context lasts, this child process serves; it ends with the main process.

    An error in the context is sent to the main process as a `Failure`. Signals that a terminal
    sends to all processes are the main process's to handle.

    Args:
        connection: To the main process.
    """
    leave_signals_to_main()
    end_with_parent()
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process has closed the pipe
    except Exception:
        connection.send(Failure(traceback.format_exc()))
