"""Long series made short enough to be shown, without moving what matters in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

Series = list[float | None]


def thin(places: Sequence[float], series: dict[str, Series], most: int) -> dict[str, Series]:
    """Join neighbours until no more than `most` points are left.

    Args:
        places: How much each point counts in a mean, for example the words behind it.
        series: Values by name, each as long as `places`. Those whose names are `CLOCKS` keep the
            last value of the joined ones, all others become their mean.
        most: How many points may be left, at least 1.
    """
    num = len(places)
    if num <= most:
        return series
    parts = list(_parts(num, most))
    return {
        name: [values[part[-1]] for part in parts]
        if name in CLOCKS
        else [_mean(values, places, part) for part in parts]
        for name, values in series.items()
    }


CLOCKS = ("seconds", "target_words", "updates", "epochs")
"""What curves are drawn over."""


def _mean(values: Series, weights: Sequence[float], part: range) -> float | None:
    known = [(value, weights[i]) for i in part if (value := values[i]) is not None]
    if not known:
        return None
    total = sum(weight for _, weight in known)
    if not total > 0:
        return sum(value for value, _ in known) / len(known)
    return sum(value * weight for value, weight in known) / total


def thin_to_peaks(heights: Series, series: dict[str, Series], most: int) -> dict[str, Series]:
    """Leave the highest of neighbours, so that peaks, and when they were reached, stay.

    Args:
        heights: What decides; a point without height stays only beside others without.
        series: Values by name, each as long as `heights`.
        most: How many points may be left, at least 1.
    """
    num = len(heights)
    if num <= most:
        return series

    def height(index: int) -> float:
        value = heights[index]
        return float("-inf") if value is None else value

    kept = [max(part, key=height) for part in _parts(num, most)]
    return {name: [values[index] for index in kept] for name, values in series.items()}


def _parts(num: int, most: int) -> Iterator[range]:
    bounds = [num * index // most for index in range(most + 1)]
    for begin, end in pairwise(bounds):
        yield range(begin, end)
