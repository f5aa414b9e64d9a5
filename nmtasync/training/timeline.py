"""When a simulated worker receives parameters, computes with them, and has sent its push.

These are three stations that each window passes in turn. A station takes one window at a time,
in their order; so with two windows under way, one is exchanged while the other is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


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
