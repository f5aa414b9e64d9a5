"""Time as a simulation has it: it passes when it is told to, and exactly.

A simulated worker has three stations, which each window passes in turn: it receives parameters,
computes with them, and sends its push. A station takes one window at a time, in their order; so
with two windows under way, one is exchanged while the other is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass
class Timeline:
    """Until when each station of a worker is busy, in virtual seconds.

    Attributes:
        received: The way from the server.
        computed: The device.
        sent: The way to the server.
    """

    received: Fraction
    computed: Fraction
    sent: Fraction

    def book(
        self, now: Fraction, receive: Fraction, compute: Fraction, send: Fraction
    ) -> tuple[Fraction, Fraction]:
        """Let one more window pass.

        Args:
            now: When the server lets go of its parameters.
            receive: How long they travel.
            compute: How long the window is computed.
            send: How long its push travels.

        Returns:
            When the push arrives, and for how long the device had nothing to compute before.
        """
        self.received = max(self.received, now) + receive
        idle = max(self.received - self.computed, Fraction(0))
        self.computed += idle + compute
        self.sent = max(self.sent, self.computed) + send
        return self.sent, idle
