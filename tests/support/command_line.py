"""The command line: how it is called, how it ends, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


CommandLine = Callable[..., Ended]


def as_bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def ended(returncode: int, stdout: bytes, stderr: bytes) -> Ended:
    return Ended(returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    errors = [line for line in lines if "rror" in line]
    assert len(errors) == 1 and "Traceback" not in text, text
    return errors[0]


def succeeded(command: Ended) -> Ended:
    """See that a command has ended well."""
    assert command.returncode == 0, command.stderr
    return command
