"""Which sentence pairs are worth training on, and why the others are not."""

from __future__ import annotations

import enum
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.config.schema import DataConfig

Verdicts = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]

RATIO_FREE_PIECES = 15
"""Pairs whose longer side is no longer than this pass whatever their ratio: "Hi." may well be
"Einen wunderschönen guten Tag!", and a ratio of such small numbers says nothing."""

AROUND_A_LINE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""All that Unicode has for space, and the byte order mark, which joined files have inside."""

_CHARACTERS_PER_PIECE = 64


class Verdict(enum.IntEnum):
    """What becomes of a pair. The order is that of the checks: the first that fails counts."""

    KEPT = 0
    EMPTY = 1
    DUPLICATE = 2
    TOO_LONG = 3
    RATIO = 4

    @property
    def reason(self) -> str:
        """The words of the report."""
        return ("kept", "empty side", "duplicate", "too long", "length ratio")[self]


def clean_line(text: str) -> str:
    """Remove space and order marks around a line, and what in it some take for a line's end.

    Whatever reads text calls this before it is cut into pieces, so that the same text always means
    the same: preprocessing, translation, test sets, validation. Doing it twice changes nothing.
    """
    return text.replace("\r", " ").replace("\n", " ").strip(AROUND_A_LINE)


def judge_text(source: str, target: str, max_length: int | None) -> Verdict:
    """Judge a cleaned pair before it is cut into pieces.

    Args:
        source: The source sentence.
        target: The target sentence.
        max_length: The most pieces of a side, None for no limit; a text of more than 64
            characters for each has more pieces, whatever the vocabulary, and would only harm it.
    """
    if not source or not target:
        return Verdict.EMPTY
    longest = max(len(source), len(target))
    if max_length is not None and longest > max_length * _CHARACTERS_PER_PIECE:
        return Verdict.TOO_LONG
    return Verdict.KEPT


def pair_key(source: str, target: str) -> int:
    """Hash a pair to 64 bits: equal pairs have equal keys, others practically never.

    Among 100 million different pairs, two share a key with a probability of 0.0003.
    """
    content = f"{source}\n{target}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def mark_duplicates(verdicts: Verdicts, keys: Keys) -> None:
    """Judge every pair that occurred before a DUPLICATE; pairs already dropped don't count.

    Args:
        verdicts: One `Verdict` for each pair, changed in place: [N].
        keys: The pairs' keys: [N].
    """
    candidates = np.flatnonzero(verdicts == Verdict.KEPT)
    _, first = np.unique(keys[candidates], return_index=True)
    repeated = np.ones(len(candidates), dtype=bool)
    repeated[first] = False
    verdicts[candidates[repeated]] = Verdict.DUPLICATE


def judge_lengths(
    source_lengths: npt.NDArray[Any], target_lengths: npt.NDArray[Any], filters: DataConfig | None
) -> Verdicts:
    """Judge pairs by their lengths in pieces: [N].

    Args:
        source_lengths: Pieces of each source sentence: [N].
        target_lengths: Pieces of each target sentence: [N].
        filters: Say how long a side may be, and how many times longer than the other; None keeps
            all but empty sides.
    """
    shorter = np.minimum(source_lengths, target_lengths)
    longer = np.maximum(source_lengths, target_lengths)
    verdicts = np.full(len(longer), Verdict.KEPT, dtype=np.uint8)
    if filters is not None:
        if filters.max_ratio is not None:
            unequal = longer > filters.max_ratio * shorter
            verdicts[unequal & (longer > RATIO_FREE_PIECES)] = Verdict.RATIO
        verdicts[longer > filters.max_length] = Verdict.TOO_LONG
    verdicts[shorter == 0] = Verdict.EMPTY  # nothing but characters that are normalised away
    return verdicts
