"""What processes share is theirs alone: no name to find it by, and no rights for other users."""

from __future__ import annotations

import os
import stat
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch.multiprocessing

from nmtasync.server.transport import shared_vector
from nmtasync.training.asynchronous.local import LocalDriver
from nmtasync.training.session import Session
from tests.support.runs import train_toy

SHARED = Path("/dev/shm")


def test_a_shared_vector_has_no_name_and_no_rights_for_others():
    previous = os.umask(0)
    try:
        vector = shared_vector(1000)
    finally:
        os.umask(previous)
    descriptor, _ = vector.untyped_storage()._share_fd_cpu_()  # which the storage closes
    status = os.fstat(descriptor)
    assert status.st_size >= 4000
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 0, "others could open it by its name"


def mapped(pid: int) -> list[str]:
    """The files of shared memory that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines()
    return [line.partition(str(SHARED))[2] for line in lines if f" {SHARED}/" in line]


@pytest.mark.processes
def test_while_workers_train_nothing_of_theirs_can_be_found(toy_run, monkeypatch):
    exchange, seen = Session.exchange, []
    drivers: list[LocalDriver] = []
    begin = LocalDriver.train

    def train(self: LocalDriver) -> str:
        drivers.append(self)
        return begin(self)

    def looked(self: Session, *arguments):
        pids = [os.getpid(), *(w.child.process.pid for w in drivers[0].workers.values())]
        for pid in pids:
            seen.extend(mapped(pid))
        names = [path.name for path in SHARED.iterdir()]
        assert not [name for name in names for pid in pids if f"torch_{pid}_" in name]
        return exchange(self, *arguments)

    monkeypatch.setattr(LocalDriver, "train", train)
    monkeypatch.setattr(Session, "exchange", looked)
    train_toy(toy_run, asynchronous__devices="cpu,cpu", training__max_updates=3)
    assert len(seen) >= 8 and all(name.endswith("(deleted)") for name in seen), seen
    assert torch.multiprocessing.get_sharing_strategy() == "file_descriptor"
    sockets = Path(forkserver._forkserver._forkserver_address).parent
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
