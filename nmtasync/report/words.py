"""Where translations differ, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

MAX_CHARACTERS = 2000
"""Where longer lines are cut: comparing takes the square of their length."""


@dataclass(frozen=True)
class Piece:
    """A part of a translation.

    Attributes:
        text: With the spaces around it.
        differs: Whether another run has something else there.
        off: Whether the reference has something else there; never where there is none.
    """

    text: str
    differs: bool
    off: bool


def split(text: str, *, characters: bool = False) -> list[str]:
    """Cut a line into words and the signs beside them, or into characters; spaces are left out."""
    return re.findall(r"\S" if characters else r"\w+|[^\w\s]", text[:MAX_CHARACTERS])


def mark(
    hypotheses: Sequence[str], reference: str | None, *, characters: bool = False
) -> list[list[Piece]]:
    """Mark in translations of one sentence where they differ.

    The first one is compared with each other one, and each other one with the first.

    Args:
        hypotheses: The translations.
        reference: What they should be, if it is known.
        characters: Whether the language has no spaces between words.
    """
    words = [split(text, characters=characters) for text in hypotheses]
    differing: list[set[int]] = [set() for _ in words]
    for index, other in enumerate(words[1:], 1):
        here, there = _unlike(words[0], other)
        differing[0] |= here
        differing[index] |= there
    expected = None if reference is None else split(reference, characters=characters)
    off = [set() if expected is None else _unlike(line, expected)[0] for line in words]
    return [
        _pieces(text[:MAX_CHARACTERS], line, *marks)
        for text, line, *marks in zip(hypotheses, words, differing, off, strict=True)
    ]


def _unlike(left: Sequence[str], right: Sequence[str]) -> tuple[set[int], set[int]]:
    """The places of words in either line that have no equal in the other."""
    here, there = set(range(len(left))), set(range(len(right)))
    for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        here -= set(range(block.a, block.a + block.size))
        there -= set(range(block.b, block.b + block.size))
    return here, there


def _pieces(text: str, words: Sequence[str], differing: set[int], off: set[int]) -> list[Piece]:
    """Cut a text where its marks change; a space has those that both of its sides have."""
    marks = [(False, False)] * len(text)
    before, end = (False, False), 0
    for index, word in enumerate(words):
        begin = text.index(word, end)
        now = index in differing, index in off
        if now == before:
            marks[end:begin] = [now] * (begin - end)
        before, end = now, begin + len(word)
        marks[begin:end] = [now] * len(word)
    runs = groupby(zip(text, marks, strict=True), key=lambda pair: pair[1])
    return [Piece("".join(c for c, _ in pairs), *both) for both, pairs in runs]
