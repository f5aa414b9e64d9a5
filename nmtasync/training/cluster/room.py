"""How many workers a cluster has room for, and with how many CPUs each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmtasync.config.schema import AsynchronousConfig
from nmtasync.errors import UserError
from nmtasync.machine.device import MAX_CPU_WORKERS, MAX_WORKERS

GPU = "cuda:0"
"""What a worker calls its GPU: Ray lets it see no other."""


@dataclass(frozen=True)
class NodeRoom:
    """What a node of a cluster has.

    Attributes:
        cpus: As many as Ray may give away.
        gpus: Likewise.
    """

    cpus: int
    gpus: int


@dataclass(frozen=True)
class WorkersWanted:
    """The workers of a run on a cluster.

    Attributes:
        number: How many there shall be.
        room: For how many of them there is room now.
        device: Where each computes, as its own process calls it.
        threads: CPU threads of each.
    """

    number: int
    room: int
    device: str
    threads: int

    @property
    def devices(self) -> list[str]:
        """Where each worker computes."""
        return [self.device] * self.number

    @property
    def resources(self) -> dict[str, int]:
        """What Ray has to keep free for each worker."""
        if self.device == GPU:
            return {"num_gpus": 1, "num_cpus": 0}
        return {"num_cpus": self.threads}


def choose_workers(nodes: Sequence[NodeRoom], options: AsynchronousConfig) -> WorkersWanted:
    """Decide how many workers there are, and what each gets.

    Args:
        nodes: Those of the cluster.
        options: What the user wants.

    Raises:
        UserError: It can't be had.
    """
    names = [name.strip() for name in options.devices.split(",")]
    kinds = {name.partition(":")[0] for name in names}
    if len(kinds) > 1 or not kinds <= {"auto", "cpu", "cuda"}:
        raise UserError(
            f"{options.devices!r} names no devices that a cluster can have",
            where="asynchronous.devices",
            remedy="write auto, cpu or cuda, and asynchronous.num_workers beside it",
        )
    (kind,) = kinds
    asked = options.num_workers or (len(names) if len(names) > 1 else None)
    on_gpus = kind == "cuda" or (kind == "auto" and any(node.gpus for node in nodes))
    wanted = _on_gpus(nodes, options, asked) if on_gpus else _on_cpus(nodes, options, asked)
    if wanted.number > MAX_WORKERS:
        raise UserError(
            f"there would be {wanted.number} workers, and {MAX_WORKERS} are the most",
            where="asynchronous.num_workers",
            remedy="ask for fewer",
        )
    return wanted


def _on_gpus(
    nodes: Sequence[NodeRoom], options: AsynchronousConfig, asked: int | None
) -> WorkersWanted:
    room = sum(node.gpus for node in nodes)
    if not (asked or room):
        raise UserError("the cluster has no GPU", where="asynchronous.devices")
    shares = [node.cpus // node.gpus for node in nodes if node.gpus]
    threads = options.threads or max(1, min(shares, default=1))
    return WorkersWanted(asked or room, room, GPU, threads)


def _on_cpus(
    nodes: Sequence[NodeRoom], options: AsynchronousConfig, asked: int | None
) -> WorkersWanted:
    def room(threads: int) -> int:
        return sum(node.cpus // threads for node in nodes)

    most = sum(min(node.cpus, MAX_CPU_WORKERS) for node in nodes)
    number = asked or (room(options.threads) if options.threads else most)
    if not number:
        raise UserError(
            f"no node of the cluster has {options.threads or 1} CPUs for a worker",
            where="asynchronous.threads",
            remedy="lower it, or start Ray with --num-cpus",
        )
    largest = max((node.cpus for node in nodes), default=1)
    enough = (threads for threads in range(largest, 1, -1) if room(threads) >= number)
    threads = options.threads or next(enough, 1)
    return WorkersWanted(number, room(threads), "cpu", threads)
