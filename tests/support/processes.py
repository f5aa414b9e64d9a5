"""Training in a process of its own, and waiting for it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmtasync.run_directory import RunDirectory
from tests.support.repository import REPOSITORY
from tests.support.toy import TOY_FLAGS

KILLED = "was killed by signal 9 (SIGKILL)"


def start_training(run: RunDirectory, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "train", str(run.root), *TOY_FLAGS, *arguments],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_line(process: subprocess.Popen[str], *words: str) -> str:
    """Read what a process prints until a line has all the words."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if all(word in line for word in words):
            return line
    raise AssertionError(f"never printed {words}: {''.join(seen)}")


def children(pid: int) -> list[int]:
    """The validator and worker processes of a training process, in the order of their start."""
    parents = {child: int(fields[1]) for child, fields in _all_processes()}
    return sorted(child for child, parent in parents.items() if parents.get(parent) == pid)


def descendants(pid: int) -> set[int]:
    """All processes that a process has started, and those that these have."""
    parents = {child: int(fields[1]) for child, fields in _all_processes()}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def command_of(pid: int) -> str:
    """The command line of a process, or what it calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def listening(pid: int) -> set[str]:
    """The addresses that a process and those under it listen on: IP in hexadecimal:port."""
    sockets = {where for each in (pid, *descendants(pid)) for where in _open_files(each)}
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    heard = [fields for fields in lines if fields[3] == "0A"]
    return {fields[1] for fields in heard if f"socket:[{fields[9]}]" in sockets}


def _open_files(pid: int) -> list[str]:
    """What a process has open; of one that has ended, nothing."""
    found = []
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(str(descriptor.readlink()))
    return found


def is_loopback(address: str) -> bool:
    """Whether an address of `listening` can be reached from this machine only."""
    return address.partition(":")[0] in (
        "0100007F",
        "0000000000000000FFFF00000100007F",
        "00000000000000000000000001000000",
    )


def wait_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 60)[0], f"process {pid} lives on"
    finally:
        os.close(descriptor)


def installed(
    *arguments: object,
    cwd: Path,
    changes: Mapping[str, str | None] | None = None,
    prefix: Sequence[str] = (),
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start the command as one that is installed, in a folder of the user's.

    Args:
        cwd: Where.
        changes: Of the environment; None takes a variable away.
        prefix: A command that runs it.
        options: Of Popen.
    """
    ours = {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": str(REPOSITORY)}
    environment: dict[str, str | None] = {**os.environ, **ours, **(changes or {})}
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "cli", *map(str, arguments)],
        cwd=cwd,
        env={name: value for name, value in environment.items() if value is not None},
        **options,
    )


def group_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that are left of a command that was started in a session of its own."""
    return [
        pid
        for pid, (state, _, _, session, *_) in _all_processes()
        if state != "Z" and int(session) == process.pid
    ]


def _all_processes() -> Iterator[tuple[int, list[str]]]:
    """The id of each process, and the fields of its stat from the third, the state, on."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
