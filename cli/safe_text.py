"""Text of strangers, spelled so that a table shows it and a terminal does not obey it."""

from __future__ import annotations

EXAMPLE_CHARACTERS = 30


def safe(text: str) -> str:
    """Spell out what would command a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, most: int = EXAMPLE_CHARACTERS) -> str:
    """Return as much of a line as a table has room for, spelled out.

    Args:
        text: The line.
        most: So many characters have room.
    """
    shown = safe(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
