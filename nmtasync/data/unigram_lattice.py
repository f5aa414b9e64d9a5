"""All ways to cut a text into the pieces of a unigram model, drawn by their probability.

Source: Kudo 2018, "Subword Regularization" (arXiv 1804.10959), section 3; forward filtering and
backward sampling as in Scott 2002, "Bayesian Methods for Hidden Markov Models".
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping
from random import Random


class UnigramLattice:
    """The segmentations of a text, of which one has the probability of its pieces' product.

    Args:
        text: The text, which its pieces can spell.
        pieces: Number and log-probability of each piece, by its text.
        longest: The most characters of a piece.
        alpha: The power of its probability that a segmentation is drawn with.
    """

    def __init__(
        self, text: str, pieces: Mapping[str, tuple[int, float]], longest: int, alpha: float
    ) -> None:
        self._length = len(text)
        self._choices: list[tuple[list[float], list[tuple[int, int]]]] = []
        """For each end of a piece: cumulative shares, and where pieces begin and which they are."""
        weights = [0.0]  # logarithms of the sums over all segmentations of what comes before
        for end in range(1, len(text) + 1):
            found = [
                (weights[start] + alpha * pieces[piece][1], start, pieces[piece][0])
                for start in range(max(0, end - longest), end)
                if weights[start] > -math.inf and (piece := text[start:end]) in pieces
            ]
            most = max((weight for weight, *_ in found), default=-math.inf)
            shares, total = [], 0.0
            for weight, *_ in found:
                total += math.exp(weight - most)
                shares.append(total)
            weights.append(most + math.log(total) if found else -math.inf)
            self._choices.append((shares, [(start, piece) for _, start, piece in found]))

    def draw(self, random: Random) -> list[int]:
        """Draw a segmentation: the numbers of its pieces."""
        drawn: list[int] = []
        end = self._length
        while end:
            shares, choices = self._choices[end - 1]
            chosen = 0
            if len(choices) > 1:
                chosen = bisect(shares, random.random() * shares[-1], hi=len(shares) - 1)
            end, piece = choices[chosen]
            drawn.append(piece)
        return drawn[::-1]
