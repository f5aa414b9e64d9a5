"""What a worker process has died of, for the user and the log."""

from __future__ import annotations

import time
from multiprocessing.process import BaseProcess

from nmtasync.run_directory import RunDirectory


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
