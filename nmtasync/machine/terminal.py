"""Whether somebody looks at what is printed."""

from __future__ import annotations

from rich.console import Console


def is_live(console: Console) -> bool:
    """Whether this is a terminal that can move its cursor, whatever FORCE_COLOR says."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
