"""Time as a simulation has it: it passes when it is told to, and exactly."""

from __future__ import annotations

from fractions import Fraction


class VirtualClock:
    """Tells virtual time; called, it does what `time.monotonic` does.

    Args:
        seconds: When to begin.
        end: When time stops, in seconds; None for never.

    Attributes:
        seconds: The time now.
    """

    def __init__(self, seconds: Fraction = Fraction(0), end: float | None = None) -> None:
        self.seconds = seconds
        self.end = None if end is None else Fraction(end)

    def __call__(self) -> float:
        """Return the time now, in seconds."""
        return float(self.seconds)

    def advance(self, to: Fraction) -> bool:
        """Let time pass until `to`, but never past the end or back.

        Returns:
            Whether it is `to` now, before the end.
        """
        reached = self.end is None or to < self.end
        self.seconds = max(self.seconds, to if reached or self.end is None else self.end)
        return reached
