"""The merges of a BPE model, of which some are left out at random.

Source: Provilkov et al. 2020, "BPE-Dropout" (arXiv 1910.13267), algorithm 1: at every step each
possible merge is left out with the same probability, and the best of the others is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random


class BpeDropout:
    """A text, of which merges make pieces.

    Args:
        text: The text.
        pieces: Number and score of each piece, by its text: of possible merges the one is done
            first that makes the piece with the highest.
        dropout: The probability that a merge is left out.
    """

    def __init__(self, text: str, pieces: Mapping[str, tuple[int, float]], dropout: float) -> None:
        self._pieces = pieces
        self._dropout = dropout
        self._steps = [list(text)]
        while candidates := self._candidates(self._steps[-1]):
            self._steps.append(_merged(self._steps[-1], max(candidates)))

    def draw(self, random: Random) -> list[int] | None:
        """Draw a segmentation: the numbers of its pieces; None if a character is none."""
        draw, dropout = random.random, self._dropout
        symbols = self._steps[-1]
        for step in self._steps[:-1]:
            if draw() < dropout:  # until here, the best merge was done each time
                symbols = self._go_on(step, draw)
                break
        try:
            return [self._pieces[symbol][0] for symbol in symbols]
        except KeyError:
            return None

    def _go_on(self, symbols: list[str], draw: Callable[[], float]) -> list[str]:
        """Merge on where the best merge has been left out."""
        candidates = self._candidates(symbols)
        candidates.remove(max(candidates))
        while candidates := [merge for merge in candidates if draw() >= self._dropout]:
            symbols = _merged(symbols, max(candidates))
            candidates = self._candidates(symbols)
        return symbols

    def _candidates(self, symbols: Sequence[str]) -> list[tuple[float, int]]:
        """The score of each possible merge, and its place, negative so that the first is best."""
        pieces = self._pieces
        return [
            (pieces[pair][1], -place)
            for place, pair in enumerate(map(str.__add__, symbols, symbols[1:]))
            if pair in pieces
        ]


def _merged(symbols: list[str], merge: tuple[float, int]) -> list[str]:
    place = -merge[1]
    return [*symbols[:place], symbols[place] + symbols[place + 1], *symbols[place + 2 :]]
