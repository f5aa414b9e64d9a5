"""Schedules that are written as a list of points: number:beta1:beta2."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """Where a schedule of Adam's betas has been given.

    Attributes:
        number: Of the update, or batch.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        held: Whether they stay until the next point, instead of going there linearly.
    """

    number: int
    beta1: float
    beta2: float
    held: bool


def parse_points(text: str) -> list[Point]:
    """Read points "number:beta1:beta2", with commas between them.

    Raises:
        ValueError: The text is no list of points, or they are not in order.
    """
    points: list[Point] = []
    for part in (part.strip() for part in text.split(",")):
        pieces = part.removesuffix("!").split(":")
        if len(pieces) != 3:
            raise ValueError(f"{part!r} is no number:beta1:beta2")
        number, beta1, beta2 = int(pieces[0]), float(pieces[1]), float(pieces[2])
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"{part!r} has a beta that is not from 0 to below 1")
        if points and number <= points[-1].number:
            raise ValueError(f"{part!r} does not come after the point before it")
        points.append(Point(number, beta1, beta2, part.endswith("!")))
    return points
