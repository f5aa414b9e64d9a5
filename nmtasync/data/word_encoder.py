"""Segmentation of much text: word by word where that gives the same pieces, remembered.

A vocabulary whose pieces lead across no space cuts each word on its own, and most words of a text
have occurred before. The pieces of a word are remembered only where no other segmentation comes
near: sums of floats depend on what stands before a word, so ties are broken line by line.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.data.vocabulary import Vocabulary

_MOST_WORDS = 1 << 17
_LONGEST_WORD = 32
_LONGEST_LINE = 2000
_TIMES = 2
"""A word is looked at when it occurs this often: that costs more than to segment it a few times."""


class WordEncoder:
    """Segments lines as its vocabulary does, to the same ids.

    Args:
        vocabulary: How to segment.
        dtype: The type of the ids.
    """

    def __init__(self, vocabulary: Vocabulary, dtype: np.dtype[Any]) -> None:
        self._vocabulary = vocabulary
        self._dtype = dtype
        self._words: dict[str, bytes] = {"": b""}
        self._times_seen: dict[str, int] = {}
        self._by_word = vocabulary.is_word_by_word

    def encode(self, lines: Sequence[str]) -> tuple[bytes, npt.NDArray[np.int64]]:
        """Segment lines.

        Returns:
            The ids of all pieces, end to end, and how many each line has: [N].
        """
        encoded: list[bytes] = []
        left: list[int] = []
        look_up, join, append = self._words.__getitem__, b"".join, encoded.append
        for line in lines:
            try:
                append(join(map(look_up, line.split(" "))))
            except KeyError:
                left.append(len(encoded))
                append(b"")
        unknown = [lines[i] for i in left]
        for i, ids in zip(left, self._vocabulary.encode(unknown), strict=True):
            encoded[i] = array(self._dtype.char, ids).tobytes()
        if self._by_word:
            self._learn(unknown)
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return b"".join(encoded), sizes // self._dtype.itemsize

    def _learn(self, lines: Sequence[str]) -> None:
        """Remember the words that have occurred some times, if they are cut alike everywhere."""
        known, times = self._words, self._times_seen
        again: list[str] = []
        for line in lines:
            if len(line) > _LONGEST_LINE:  # errors of its sums may reach the margin of ties
                continue
            for word in [word for word in line.split(" ") if word not in known]:
                seen = times.get(word, 0) + 1
                if seen > 1 or (len(times) < _MOST_WORDS and len(word) <= _LONGEST_WORD):
                    times[word] = seen
                if seen == _TIMES:
                    again.append(word)
        for word, ids in zip(again, self._vocabulary.encode_without_ties(again), strict=True):
            if ids is not None:
                known[word] = array(self._dtype.char, ids).tobytes()


def count_words(lines: Sequence[str]) -> int:
    """Count what stands between spaces."""
    text = " ".join(lines)
    while "  " in text:
        text = text.replace("  ", " ")
    text = text.strip(" ")
    return text.count(" ") + 1 if text else 0
