"""Processes of training: that none outlives the main process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import wait_gone

STUCK = """
import os, threading
from nmtasync.machine.processes import end_with_parent, process_context

def be_stuck(connection):
    end_with_parent()
    connection.send(os.getpid())
    threading.Event().wait()

if __name__ == "__main__":
    context = process_context()
    here, there = context.Pipe()
    process = context.Process(target=be_stuck, args=(there,))
    process.start()
    print(here.recv(), flush=True)
    process.join()
"""


@pytest.mark.processes
def test_a_process_that_never_looks_at_its_pipe_ends_with_its_parent_too(tmp_path):
    """As a validator that is about to save when the main process is killed."""
    (tmp_path / "stuck.py").write_text(STUCK)
    with subprocess.Popen([sys.executable, tmp_path / "stuck.py"], stdout=subprocess.PIPE) as main:
        assert main.stdout is not None
        child = int(main.stdout.readline())
        main.kill()
        wait_gone(child)
