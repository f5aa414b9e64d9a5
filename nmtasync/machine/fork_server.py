"""The process that all others are forked from, and what it must not inherit from its surroundings.

It has imported all that children need, so that these, and replacements of dead ones, start without
the seconds that importing takes. It has no threads and no GPU context, and it ends with this one.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

import torch.multiprocessing as mp

from nmtasync.errors import NmtasyncError
from nmtasync.machine.import_path import own_import_path
from nmtasync.machine.signals import signals_kept_from_children

_PRELOADED = (
    "nmtasync.machine.end_with_parent",
    "nmtasync.training.asynchronous.worker_process",
    "nmtasync.training.synchronous.rank_process",
    "nmtasync.training.validation.validator_process",
)
_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""A socket's path has at most 107 bytes."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def process_context() -> ForkServerContext:
    """Return a context whose processes are forked from the server, which runs then.

    Raises:
        NmtasyncError: The server can't be started.
    """
    context: ForkServerContext = mp.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    try:
        _choose_socket_folder()
        with own_import_path():
            resource_tracker.ensure_running()  # first: it sets the mask of signals back itself
            with signals_kept_from_children():
                forkserver.ensure_running()
    except OSError as error:
        raise NmtasyncError(
            f"processes can't be started: {error.strerror or error}",
            where=f"TMPDIR = {os.environ.get('TMPDIR', '')}",
            remedy="set TMPDIR to a folder that can be written and holds sockets",
        ) from None
    return context


def _choose_socket_folder() -> None:
    """Let sockets lie where their paths are short enough."""
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if "tempdir" in config or len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER:
        return
    for place in _SHORT_FOLDERS:
        with contextlib.suppress(OSError):
            config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir=place)
            atexit.register(shutil.rmtree, config["tempdir"], ignore_errors=True)
            return
