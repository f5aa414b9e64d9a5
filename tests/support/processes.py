"""Training in a process of its own, and waiting for it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

from nmtasync.run_directory import RunDirectory
from tests.support.repository import REPOSITORY
from tests.support.toy import TOY_FLAGS


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
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return sorted(child for child, parent in parents.items() if parents.get(parent) == pid)


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
