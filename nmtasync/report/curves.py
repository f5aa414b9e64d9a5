"""Curves of validations: smoothed, and when they reach a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A validation, or a place on the straight line between two.

    Attributes:
        seconds: When its snapshot was taken, virtual or real.
        target_words: That had been trained on until then.
        bleu: From 0 to 100.
        cross_entropy: Per target word, in nats.
    """

    seconds: float
    target_words: float
    bleu: float
    cross_entropy: float


def smooth(points: Sequence[Point], half_width: float) -> list[Point]:
    """Smooth BLEU and cross-entropy over target words.

    Each becomes the mean height of the straight lines between validations, over so many words to
    each side, as far as there are validations. So it does not matter how often a row validates.

    Args:
        points: The validations, in the order of words.
        half_width: Target words to each side.
    """
    words = np.array([point.target_words for point in points])
    bleu = np.array([point.bleu for point in points])
    cross_entropy = np.array([point.cross_entropy for point in points])
    return [
        replace(
            point,
            bleu=_mean_height(words, bleu, point.target_words, half_width),
            cross_entropy=_mean_height(words, cross_entropy, point.target_words, half_width),
        )
        for point in points
    ]


def _mean_height(places: Floats, heights: Floats, middle: float, half_width: float) -> float:
    low = max(middle - half_width, float(places[0]))
    high = min(middle + half_width, float(places[-1]))
    ends = np.interp([low, high], places, heights)
    if low >= high:
        return float(ends[0])
    inner = slice(np.searchsorted(places, low, "right"), np.searchsorted(places, high, "left"))
    at = np.concatenate(([low], places[inner], [high]))
    there = np.concatenate((ends[:1], heights[inner], ends[1:]))
    return float(((there[1:] + there[:-1]) / 2 * np.diff(at)).sum()) / (high - low)


def reach_bleu(points: Sequence[Point], bleu: float) -> Point | None:
    """Where BLEU first reached a target, or None if it never did.

    The straight line from the last validation below it to the first that is not tells where. It
    begins with BLEU 0 at the start, where cross-entropy is not known: that of the first validation.
    """
    start = [replace(point, seconds=0.0, target_words=0.0, bleu=0.0) for point in points[:1]]
    return _reach([*start, *points], lambda point: point.bleu, bleu)


def reach_cross_entropy(points: Sequence[Point], cross_entropy: float) -> Point | None:
    """Where cross-entropy first fell to a target, at the earliest the first validation."""
    return _reach(points, lambda point: -point.cross_entropy, -cross_entropy)


def _reach(
    points: Sequence[Point], height: Callable[[Point], float], target: float
) -> Point | None:
    if points and height(points[0]) >= target:
        return points[0]
    for before, after in pairwise(points):
        if height(after) >= target:
            share = (target - height(before)) / (height(after) - height(before))
            return _between(before, after, share)
    return None


def _between(before: Point, after: Point, share: float) -> Point:
    def mix(left: float, right: float) -> float:
        return left + share * (right - left)

    return Point(
        mix(before.seconds, after.seconds),
        mix(before.target_words, after.target_words),
        mix(before.bleu, after.bleu),
        mix(before.cross_entropy, after.cross_entropy),
    )
