"""What a user can cause, and how it is told: what is wrong, where, and what to do."""

from __future__ import annotations

import unicodedata

_MOST_CHARACTERS = 2000


class NmtasyncError(Exception):
    """An expected failure, shown to the user as one line without a traceback.

    Args:
        message: What is wrong, in one sentence without a full stop at the end.
        where: The file, file and line, or config key that it concerns.
        remedy: What the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: object = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = None if where is None else str(where)
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        line = " ".join(f"{place}{self.message}{remedy}".split())
        if len(line) > _MOST_CHARACTERS:  # files of strangers may be quoted in it
            line = f"{line[: _MOST_CHARACTERS // 2]}…{line[-_MOST_CHARACTERS // 2 :]}"
        return "".join(map(_visible, line))


def _visible(character: str) -> str:
    """Spell a character that would command the terminal instead of being shown on it."""
    controls = unicodedata.category(character) in ("Cc", "Cf")
    return ascii(character)[1:-1] if controls else character


class UserError(NmtasyncError):
    """Bad input, a bad option or a bad configuration: exit code 2."""

    exit_code = 2


class TrainingError(NmtasyncError):
    """Training could not go on, through no fault of the command line: exit code 1."""
