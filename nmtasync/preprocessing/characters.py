"""What kinds of characters lines are made of: letters of a script, other letters, controls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import regex

from nmtasync.config.languages import script_of
from nmtasync.data.cleaning import AROUND_A_LINE

Counts = npt.NDArray[np.int64]

SPACE, OWN_LETTER, FOREIGN_LETTER, CONTROL = range(4)
"""Kinds of characters; all others are digits, punctuation and symbols. Letters are a language's own
if they are of its script, of no script by themselves, or if its script is not known."""

_MOST_COUNTED = (1 << 16) - 1
"""The four counts of a line are added up in one number, 16 bits for each."""

_COMPOSITE_SCRIPTS = {
    "Jpan": ("Hira", "Kana", "Hani"),
    "Hrkt": ("Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
    "Hans": ("Hani", "Bopo"),
    "Hant": ("Hani", "Bopo"),
    "Hanb": ("Hani", "Bopo"),
}
_OF_ALL_SCRIPTS = ("Zyyy", "Zinh")
_REPLACEMENT = "\ufffd"
"""What decoders put where bytes were no text; it counts as a control character."""


@dataclass(frozen=True)
class CharacterCounts:
    """Characters of lines, by their kinds.

    Attributes:
        spaces: Of each line: [N].
        own_letters: [N].
        foreign_letters: [N].
        controls: [N].
        characters: All that were counted: [N].
    """

    spaces: Counts
    own_letters: Counts
    foreign_letters: Counts
    controls: Counts
    characters: Counts

    @property
    def letters(self) -> Counts:
        """Letters of all scripts: [N]."""
        return self.own_letters + self.foreign_letters


class CharacterKinds:
    """Counts the kinds of characters of lines.

    Args:
        language: The code of their language, or None if it is not known.

    Attributes:
        script: The script of the language, if it is known and has only one.
    """

    def __init__(self, language: str | None) -> None:
        self.script = script_of(language)
        if self.script is not None and not _is_known(self.script):
            self.script = None
        self._table = _table(self.script)

    def count(self, lines: Sequence[str], lengths: Counts) -> CharacterCounts:
        """Count the characters of each kind in each line, of the first 65,535 of it.

        Args:
            lines: The lines.
            lengths: How many characters each has: [N].
        """
        if len(lengths) and lengths.max() > _MOST_COUNTED:
            lines = [line[:_MOST_COUNTED] for line in lines]
            lengths = np.minimum(lengths, _MOST_COUNTED)
        text = "".join(lines).encode("utf-32-le", "surrogatepass")
        ones = self._table[np.frombuffer(text, "<u4")]
        packed = np.zeros(len(lines), np.uint64)
        some = lengths > 0
        if some.any():
            starts = np.cumsum(lengths) - lengths
            packed[some] = np.add.reduceat(ones, starts[some])
        spaces, own, foreign, controls = (
            ((packed >> np.uint64(16 * kind)) & np.uint64(_MOST_COUNTED)).astype(np.int64)
            for kind in (SPACE, OWN_LETTER, FOREIGN_LETTER, CONTROL)
        )
        return CharacterCounts(spaces, own, foreign, controls, lengths)


def _scripts(script: str) -> tuple[str, ...]:
    return _COMPOSITE_SCRIPTS.get(script, (script,))


def _is_known(script: str) -> bool:
    try:
        regex.compile("".join(rf"\p{{Script={name}}}" for name in _scripts(script)))
    except regex.error:
        return False
    return True


def _table(script: str | None) -> npt.NDArray[np.uint64]:
    """What every character there is adds to the counts of its line: [1,114,112]."""
    codes = np.arange(sys.maxunicode + 1, dtype="<u4")
    everything = codes.tobytes().decode("utf-32-le", "surrogatepass")
    table = np.zeros(len(everything), np.uint64)

    def mark(pattern: str, kind: int) -> None:
        for found in regex.finditer(f"(?V1)[{pattern}]+", everything):
            table[found.start() : found.end()] = 1 << (16 * kind)

    letters = r"[\p{L}\p{M}]"
    mark(letters, OWN_LETTER if script is None else FOREIGN_LETTER)
    if script is not None:
        own = "".join(rf"\p{{Script={name}}}" for name in (*_scripts(script), *_OF_ALL_SCRIPTS))
        mark(f"{letters}&&[{own}]", OWN_LETTER)
    mark(rf"\p{{Cc}}{_REPLACEMENT}", CONTROL)
    for character in AROUND_A_LINE:
        table[ord(character)] = 1 << (16 * SPACE)
    return table
