"""How much memory there is, and what to do where it does not suffice: halve the work, and do one
half after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

ResultT = TypeVar("ResultT")

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells about processes, and about the groups of them whose memory is limited."""

_OF_GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""The files of limit and use, and what can be taken back of it, in version 2 and version 1."""


def available_bytes() -> int:
    """Return how much more memory this process and its children may take.

    That is what the machine has left, or less where they are in a container whose limit is nearer.
    """
    available = 1024 * _numbers(PROC / "meminfo")["MemAvailable"]
    for group, (limit, used, reclaimable) in _own_groups():
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max", or no such file
            left = int((group / limit).read_text("ascii")) - int((group / used).read_text("ascii"))
            available = min(available, left + _numbers(group / "memory.stat")[reclaimable])
    return max(available, 0)


def _own_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """List the groups that this process is in, up to the outermost, with the names of files."""
    with contextlib.suppress(OSError):
        for line in (PROC / "self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller, names in _OF_GROUPS.items():
                if controller in controllers.split(","):
                    root = GROUPS / controller
                    own = root / path.strip("/")
                    outer = (group for group in own.parents if group.is_relative_to(root))
                    yield from ((group, names) for group in (own, *outer))


def _numbers(path: Path) -> dict[str, int]:
    """Read lines of a name, a number and perhaps a unit."""
    words = (line.replace(":", " ").split() for line in path.read_text("ascii").splitlines())
    return {name: int(number) for name, number, *_ in words if number.isdecimal()}


def resident_bytes(kind: str = "VmRSS") -> int:
    """Return how much memory this process has.

    Args:
        kind: "VmRSS" for all of it, "VmHWM" for the most since `forget_peak`, "RssAnon" for what
            is its alone and of no file.
    """
    for line in (PROC / "self/status").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return 1024 * int(value.split()[0])
    raise OSError(f"Linux does not tell {kind}")


def forget_peak() -> None:
    """Let the most memory that this process had be what it has now, where Linux allows it."""
    with contextlib.suppress(OSError):
        (PROC / "self/clear_refs").write_text("5", "ascii")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: a GPU's, or a CPU's."""
    # by its name: the command line asks without having imported PyTorch
    of_gpu = type(error).__name__ == "OutOfMemoryError"
    return of_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def compute_in_parts(
    number: int, compute: Callable[[range], ResultT], on_split: Callable[[], None]
) -> list[ResultT]:
    """Compute something of some items: of all at once, or in parts for which memory suffices.

    A part for which it does not is halved, down to single items.

    Args:
        number: How many items there are.
        compute: Computes a part, given by the places of its items.
        on_split: Is called before a part is halved: what was begun of it has to be taken back.

    Returns:
        What was computed of each part, in the order of the items.

    Raises:
        MemoryError, RuntimeError: Memory does not suffice for a single item.
    """
    todo, results = [range(number)], []
    while todo:
        part = todo.pop()
        try:
            results.append(compute(part))
            continue
        except (MemoryError, RuntimeError) as error:
            if len(part) < 2 or not is_out_of_memory(error):
                raise
        # only here, without the error, is what its frames held free again
        on_split()
        middle = (len(part) + 1) // 2
        todo += [part[middle:], part[:middle]]
    return results
