"""The real command line: what runs it, and what it prints."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    errors = [line for line in lines if "rror" in line]
    assert len(errors) == 1 and "Traceback" not in text, text
    return errors[0]
