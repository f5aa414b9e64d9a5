"""How processes are started, that none outlives the main process, and what they died of."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import torch.multiprocessing as mp

from nmtasync.run_directory import RunDirectory

_PRELOADED = (
    "nmtasync.training.asynchronous.worker_process",
    "nmtasync.training.synchronous.rank_process",
    "nmtasync.training.validation.validator_process",
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


@dataclass(frozen=True)
class Failure:
    """The process ends because of an error.

    Attributes:
        text: The traceback.
    """

    text: str


def cause_of_death(run: RunDirectory, index: int, process: BaseProcess, last_words: str) -> str:
    """Say what ended a worker, and keep the traceback that it left in RUN/logs.

    Args:
        run: Where the log is.
        index: Which worker it was.
        process: The process, which has ended or is about to be ended.
        last_words: The traceback, if there is one.

    Returns:
        What follows "was", for example "killed by signal 9".
    """
    if last_words:
        log = run.logs / f"worker-{index}.log"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{last_words}\n")
        return f"failed: {last_words.strip().splitlines()[-1]}"
    code = process.exitcode
    return f"killed by signal {-code}" if code is not None and code < 0 else "failed"
