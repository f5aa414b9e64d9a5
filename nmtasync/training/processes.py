"""How worker and validator processes are started, and that none outlives the main process."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext

import torch.multiprocessing as mp

_PRELOADED = (
    "nmtasync.training.worker_process",
    "nmtasync.training.rank_process",
    "nmtasync.training.validator_process",
)


def process_context() -> ForkServerContext:
    """Let processes be forked from one that has imported all they need, and done nothing else.

    So they, and replacements of dead workers, start without the seconds that importing takes. The
    process that they are forked from has no threads and no GPU context, and it ends
    with this one.
    """
    context: ForkServerContext = mp.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


def end_with_parent() -> None:
    """Let this process end at once when the one that has started it is gone.

    After a `kill -9` of the main process nobody else holds RUN any longer: who is still about to
    save would write into what belongs to the next command.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
