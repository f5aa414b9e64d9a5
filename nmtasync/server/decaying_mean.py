"""A mean of what came last."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.untrusted import Positive


@dataclass
class DecayingMean:
    """A mean that forgets: over all values while there are few, then mostly over the last ones.

    Attributes:
        memory: How many values it is over, in the long run.
        value: The mean; 0 before the first value.
        count: How many there have been, by their weights.
    """

    memory: Positive
    value: float = 0.0
    count: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Take one more value, which counts as so many."""
        self.count += weight
        self.value += (value - self.value) * weight / min(self.count, self.memory)
