"""Who has been silent for too long: processes that hang are found by what they do not say."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

WhoT = TypeVar("WhoT", bound=Hashable)

LONGEST_TICK_SECONDS = 1.0
"""No more than this passes between two looks: a main process that was stopped, or that was busy,
does not take the others for silent."""
UNKNOWN_SECONDS = 900.0
"""The patience with processes of which nothing is known yet: they may be compiling."""
LEAST_SECONDS, TIMES_THE_LONGEST = 60.0, 20.0
"""The patience with others: so many times the longest task so far, but not less than a minute."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 30.0


def pause_before_restart(deaths: int) -> float:
    """How long to wait before a process is started again: none, then twice as long each time.

    Args:
        deaths: How often in a row it has ended without having done anything.

    Returns:
        Seconds.
    """
    if deaths <= 1:
        return 0.0
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(deaths - 2, 20))


class Supervision(Generic[WhoT]):
    """Keeps the time since each process was given something to do.

    Args:
        timeout: Seconds of silence that are too many, or "auto": found from the tasks so far.
        clock: Tells the time in seconds, from any zero on.

    Attributes:
        now: Seconds that have passed while this process looked.
    """

    def __init__(self, timeout: float | str, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = 0.0
        self._timeout = timeout
        self._clock = clock
        self._last_look = clock()
        self._since: dict[WhoT, float] = {}
        self._longest: float | None = None

    @property
    def limit(self) -> float:
        """How many seconds of silence are too many."""
        if isinstance(self._timeout, int | float):
            return float(self._timeout)
        if self._longest is None:
            return UNKNOWN_SECONDS
        return max(LEAST_SECONDS, TIMES_THE_LONGEST * self._longest)

    def expect(self, who: WhoT) -> None:
        """From now on something is expected of a process; it has just begun with it."""
        self._since[who] = self.now

    def rest(self, who: WhoT) -> None:
        """Nothing is expected of a process."""
        self._since.pop(who, None)

    def done(self, who: WhoT) -> None:
        """A process has done what was expected, and rests."""
        if who in self._since:
            self._longest = max(self._longest or 0.0, self.now - self._since[who])
        self.rest(who)

    def overdue(self) -> list[WhoT]:
        """Look at the clock, and tell who has been silent for too long."""
        now = self._clock()
        self.now += min(now - self._last_look, LONGEST_TICK_SECONDS)
        self._last_look = now
        return [who for who, since in self._since.items() if self.now - since > self.limit]
