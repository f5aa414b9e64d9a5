"""How worker and validator processes are started."""

from __future__ import annotations

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
