"""Child processes: how they are started, talked to and ended, and what they died of.

None outlives the main process: whoever is still about to save after a `kill -9` of it would write
into a RUN that belongs to the next command.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nmtasync.machine.fork_server import process_context
from nmtasync.machine.signals import leave_signals_to_main

POLL_SECONDS = 0.2
"""How often the main process looks at limits and signals while no child has anything to say."""


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


class Child:
    """A child process and this end of the pipe to it.

    Args:
        serve: What the process runs: a function of `setup` and its end of the pipe.
        setup: What the process needs to know at its start.
        name: Of the process.

    Attributes:
        connection: This end of the pipe.
        last_words: The traceback that the process left, if any.
    """

    def __init__(self, serve: Callable[[Any, Connection], None], setup: object, name: str) -> None:
        context = process_context()
        self.name = name
        self.last_words = ""
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(setup, there), name=name, daemon=True)
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

    def cause_of_death(self, log: Path) -> str:
        """Return what ended the process, and keep the traceback that it left.

        Args:
            log: Where to keep it.

        Returns:
            What follows its name, for example "was killed by signal 9".
        """
        if self.last_words:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{self.last_words}\n")
            return f"failed: {self.last_words.strip().splitlines()[-1]}"
        code = self.process.exitcode
        return f"was killed by signal {-code}" if code is not None and code < 0 else "failed"


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


def end_with_parent() -> None:
    """Let this process end at once when the one that has started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
