"""What is printed: whether somebody looks at it, and how times are written."""

from __future__ import annotations

from rich.console import Console


def is_live(console: Console) -> bool:
    """Whether this is a terminal that can move its cursor, whatever FORCE_COLOR says."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


def duration(seconds: float) -> str:
    """Write a time as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
