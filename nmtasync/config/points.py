"""Schedules of Adam's betas that are written as a list of points: number:beta1:beta2."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.errors import UserError


@dataclass(frozen=True)
class Point:
    """One point of a schedule of betas.

    Attributes:
        number: The update, or the worker's batch, at which it stands.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        held: Whether the betas keep these values until the next point instead of moving linearly.
    """

    number: int
    beta1: float
    beta2: float
    held: bool


def parse_points(text: str, *, where: str = "optimizer.beta_points") -> list[Point]:
    """Read points "number:beta1:beta2", with commas between them.

    Args:
        text: The points.
        where: The option that holds them.

    Raises:
        UserError: The text is no list of points, or they are not in order.
    """
    points: list[Point] = []
    remedy = "write 1:0.9:0.999,4000:0.92:0.998, for example"
    for part in (part.strip() for part in text.split(",")):
        try:
            number, beta1, beta2 = part.removesuffix("!").split(":")
            point = Point(int(number), float(beta1), float(beta2), part.endswith("!"))
        except ValueError:
            message = f"{part!r} is no number:beta1:beta2"
            raise UserError(message, where=where, remedy=remedy) from None
        if not (0 <= point.beta1 < 1 and 0 <= point.beta2 < 1):
            message = f"{part!r} has a beta that is not from 0 to below 1"
            raise UserError(message, where=where, remedy=remedy)
        if points and point.number <= points[-1].number:
            message = f"{part!r} does not come after the point before it"
            raise UserError(message, where=where, remedy=remedy)
        points.append(point)
    return points
