"""Parse and check the options of [simulation].

Virtual time is exact: numbers are fractions, so that events meant for the same moment coincide.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

from nmtasync.config.schema import Config
from nmtasync.errors import UserError

_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_FAILURE = re.compile(rf"(\d{{1,6}})@({_NUMBER})(?:-({_NUMBER}))?")

MAX_WORKERS = 1024

SPEEDS, FAILURES = "simulation.speeds", "simulation.failures"


@dataclass(frozen=True)
class Outage:
    """A time in which a worker is dead.

    Attributes:
        worker: Which.
        start: When it dies, in virtual seconds.
        end: When it returns; None for never.
    """

    worker: int
    start: Fraction
    end: Fraction | None


def exact(number: float) -> Fraction:
    """Return the fraction that a number looks like: 0.1 is 1/10."""
    return Fraction(repr(number))


def parse_speeds(text: str) -> list[Fraction]:
    """Parse the speeds of the workers.

    Raises:
        UserError: One is not a positive number.
    """
    speeds = []
    for word in (part.strip() for part in text.split(",")):
        speed = Fraction(word) if re.fullmatch(_NUMBER, word) else Fraction(0)
        if speed == 0:
            raise UserError(
                f"{word!r} is no speed",
                where=SPEEDS,
                remedy="write a positive number for each worker, for example 1,1,2.5",
            )
        speeds.append(speed)
    if len(speeds) > MAX_WORKERS:
        raise UserError(
            f"makes {len(speeds)} workers, and {MAX_WORKERS} are the most",
            where=SPEEDS,
            remedy="name fewer",
        )
    return speeds


def parse_failures(text: str | None, num_workers: int) -> list[Outage]:
    """Parse the outages of the workers, ordered by worker and start.

    Raises:
        UserError: The text is not understood, or is impossible.
    """
    outages = []
    for word in (part.strip() for part in text.split(",")) if text is not None else ():
        match = _FAILURE.fullmatch(word)
        if not match:
            raise UserError(
                f"{word!r} is no failure",
                where=FAILURES,
                remedy="write WORKER@SECONDS or WORKER@FROM-UNTIL, for example 0@350,1@100-200",
            )
        worker, start = int(match[1]), Fraction(match[2])
        end = Fraction(match[3]) if match[3] else None
        if worker >= num_workers:
            raise UserError(
                f"{word!r} names worker {worker}, but {SPEEDS} makes workers 0 to "
                f"{num_workers - 1} only",
                where=FAILURES,
            )
        if end is not None and end <= start:
            raise UserError(f"{word!r} returns before it dies", where=FAILURES)
        outages.append(Outage(worker, start, end))
    outages.sort(key=lambda outage: (outage.worker, outage.start))
    for before, after in itertools.pairwise(outages):
        alive = before.end is not None and before.end < after.start
        if before.worker == after.worker and not alive:
            raise UserError(
                f"lets worker {after.worker} die at {float(after.start):g} s, when it is not alive",
                where=FAILURES,
            )
    return outages


def refuse_impossible_simulation(config: Config) -> None:
    """Refuse a section [simulation] that can't be simulated.

    Raises:
        UserError: It can't.
    """
    if config.asynchronous.driver != "simulated":
        return
    options = config.simulation
    parse_failures(options.failures, len(parse_speeds(options.speeds)))
    if options.seconds_per_batch == 0 and options.seconds_per_target_word == 0:
        raise UserError(
            "is 0, and so is simulation.seconds_per_target_word: no time would ever pass",
            where="simulation.seconds_per_batch",
        )
