"""How many workers a cluster has room for, and with how many CPUs or GPUs each."""

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
        threads: CPU threads of each, or of each of its devices.
        num_devices: How many devices each has: more than one of a host whose devices make one.
    """

    number: int
    room: int
    device: str
    threads: int
    num_devices: int = 1

    @property
    def devices(self) -> list[str]:
        """Where each worker computes."""
        return [self.device] * self.number

    @property
    def resources(self) -> dict[str, int]:
        """What Ray has to keep free for each worker."""
        if self.device == GPU:
            return {"num_gpus": self.num_devices, "num_cpus": 0}
        return {"num_cpus": self.threads * self.num_devices}


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
    if options.hosts == "synchronous":
        wanted = _hosts(nodes, options, on_gpus, len(names) if len(names) > 1 else None)
    else:
        wanted = _on_gpus(nodes, options, asked) if on_gpus else _on_cpus(nodes, options, asked)
    if wanted.number > MAX_WORKERS:
        raise UserError(
            f"there would be {wanted.number} workers, and {MAX_WORKERS} are the most",
            where="asynchronous.num_workers",
            remedy="ask for fewer",
        )
    return wanted


def _hosts(
    nodes: Sequence[NodeRoom], options: AsynchronousConfig, on_gpus: bool, named: int | None
) -> WorkersWanted:
    """Make a worker of each node; `named` is how many devices it shall have, if that is said."""
    threads = 1 if on_gpus else options.threads or 1

    def has(node: NodeRoom) -> int:
        most = node.gpus if on_gpus else node.cpus // threads
        return most if named or on_gpus else min(most, MAX_CPU_WORKERS)

    fitting = sorted((node for node in nodes if has(node) >= (named or 1)), key=has, reverse=True)
    chosen = fitting[: options.num_workers]
    if not chosen:
        what = f"{named or 1} GPUs" if on_gpus else f"{threads * (named or 1)} CPUs"
        raise UserError(
            f"no node of the cluster has {what} for a host",
            where="asynchronous.hosts",
            remedy="name fewer asynchronous.devices or lower asynchronous.threads, or start Ray "
            "with --num-cpus or --num-gpus",
        )
    number, num_devices = options.num_workers or len(chosen), named or min(map(has, chosen))
    shares = [max(1, node.cpus // num_devices) for node in chosen]
    threads = options.threads or min(shares)
    each = num_devices if on_gpus else threads * num_devices
    room = sum((node.gpus if on_gpus else node.cpus) // each for node in nodes)
    return WorkersWanted(number, room, GPU if on_gpus else "cpu", threads, num_devices)


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
