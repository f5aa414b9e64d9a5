"""Parse and check the options of [simulation].

Virtual time is exact: numbers are fractions, so that events meant for the same moment coincide.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from nmtasync.config.schema import Config
from nmtasync.errors import UserError

_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_FAILURE = re.compile(rf"(h?)(\d{{1,6}})@({_NUMBER})(?:-({_NUMBER}))?")

MAX_WORKERS = 1024

SPEEDS, FAILURES, HOSTS = "simulation.speeds", "simulation.failures", "simulation.hosts"


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


@dataclass(frozen=True)
class SimulatedWorker:
    """What fetches and pushes in a simulation: a device, or all of a host.

    Attributes:
        host: Where it lies.
        devices: Their numbers.
        speeds: Of the devices.
    """

    host: int
    devices: tuple[int, ...]
    speeds: tuple[Fraction, ...]


def simulated_workers(config: Config) -> list[SimulatedWorker]:
    """List the workers of a simulation, one for each number of their speeds or for each host."""
    speeds = parse_speeds(config.simulation.speeds)
    hosts = parse_hosts(config.simulation.hosts, len(speeds))
    if config.asynchronous.hosts == "asynchronous":
        return [SimulatedWorker(host, (d,), (speeds[d],)) for d, host in enumerate(hosts)]
    grouped = [[d for d, h in enumerate(hosts) if h == host] for host in range(hosts[-1] + 1)]
    return [
        SimulatedWorker(host, tuple(devices), tuple(speeds[device] for device in devices))
        for host, devices in enumerate(grouped)
    ]


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


def parse_hosts(text: str | None, num_workers: int) -> list[int]:
    """Parse on which host each worker lies; on host 0 all, if there are no others.

    Raises:
        UserError: The text is not understood, or has other workers than there are.
    """
    words = [str(num_workers)] if text is None else [part.strip() for part in text.split(",")]
    for word in words:
        if not re.fullmatch(r"[1-9]\d{0,5}", word):
            raise UserError(
                f"{word!r} is no number of workers",
                where=HOSTS,
                remedy="write how many workers each host has, for example 8,8",
            )
    sizes = [int(word) for word in words]
    if sum(sizes) != num_workers:
        raise UserError(
            f"has {sum(sizes)} workers, but {SPEEDS} makes {num_workers}",
            where=HOSTS,
            remedy="name as many",
        )
    return [host for host, size in enumerate(sizes) for _ in range(size)]


def parse_failures(text: str | None, hosts: Sequence[int]) -> list[Outage]:
    """Parse the outages of the workers, ordered by worker and start.

    Args:
        text: The option.
        hosts: Of each worker.

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
                remedy="write WORKER@SECONDS or WORKER@FROM-UNTIL, for example 0@350,1@100-200, "
                "or hHOST for a worker",
            )
        start, end = Fraction(match[3]), Fraction(match[4]) if match[4] else None
        if end is not None and end <= start:
            raise UserError(f"{word!r} returns before it dies", where=FAILURES)
        named = _named_workers(word, int(match[2]), hosts, whole_host=bool(match[1]))
        outages += [Outage(worker, start, end) for worker in named]
    outages.sort(key=lambda outage: (outage.worker, outage.start))
    for before, after in itertools.pairwise(outages):
        alive = before.end is not None and before.end < after.start
        if before.worker == after.worker and not alive:
            raise UserError(
                f"lets worker {after.worker} die at {float(after.start):g} s, when it is not alive",
                where=FAILURES,
            )
    return outages


def _named_workers(word: str, index: int, hosts: Sequence[int], *, whole_host: bool) -> list[int]:
    """The workers that a failure names, by their host or by one's own number."""
    if not whole_host and index >= len(hosts):
        raise UserError(
            f"{word!r} names worker {index}, but {SPEEDS} makes workers 0 to {len(hosts) - 1} only",
            where=FAILURES,
        )
    if whole_host and index not in hosts:
        raise UserError(f"{word!r} names host {index}, which {HOSTS} does not have", where=FAILURES)
    if whole_host and index == hosts[0]:
        raise UserError(
            f"{word!r} names the host of the server, without which training ends",
            where=FAILURES,
            remedy="name another host, or its workers one by one",
        )
    return [w for w, host in enumerate(hosts) if host == index] if whole_host else [index]


def refuse_impossible_simulation(config: Config) -> None:
    """Refuse a section [simulation] that can't be simulated.

    Raises:
        UserError: It can't.
    """
    if config.asynchronous.driver != "simulated":
        return
    options = config.simulation
    hosts = [worker.host for worker in simulated_workers(config)]
    parse_failures(options.failures, hosts)
    if options.host_failure_seconds is not None and hosts[-1] == hosts[0]:
        raise UserError(
            "is the server's host alone, but simulation.host_failure_seconds is that of others",
            where=HOSTS,
            remedy="name more hosts, or drop that",
        )
    if options.seconds_per_batch == 0 and options.seconds_per_target_word == 0:
        raise UserError(
            "is 0, and so is simulation.seconds_per_target_word: no time would ever pass",
            where="simulation.seconds_per_batch",
        )
