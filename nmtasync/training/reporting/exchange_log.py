"""RUN/logs/exchanges.jsonl: all that workers and server did with each other, in its order.

A line is an object with an `event`:
    run     training has (re)started; all workers are new to come: settings, data, threads
    fetch   a worker was handed the parameters without a push
    push    a worker's push was taken, and the worker handed the parameters after it
This is enough to repeat a run exactly, since a gradient is a pure function of parameters, batch
and seed. A checkpoint knows the length of the log at its moment; a run that goes on from there
goes on with the log from there, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nmtasync.run_directory import RunDirectory, explain_write_errors
from nmtasync.worker.window import ComputedWindow

LOG_FORMAT = 2

Places = tuple[tuple[int, int], ...]
"""Batches, each by epoch and index."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """Training has started, or started again.

    Attributes:
        updates: That had been made before.
        threads: CPU threads of each worker.
        data: Hash of what was trained on.
        settings: Every option by its full name.
    """

    updates: int
    threads: int
    data: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoggedFetch:
    """A worker was handed the parameters without a push.

    Attributes:
        seconds: When.
        worker: Who.
        slot: Of the worker, for which it was handed them.
        batches_before: Of a worker that has just been started, whose local optimizer begins
            anew: the batches that its predecessors computed. None of one that goes on.
    """

    seconds: float
    worker: int
    slot: int
    batches_before: int | None


@dataclass(frozen=True, slots=True)
class LoggedPush:
    """A push was taken.

    Attributes:
        seconds: When.
        worker: Whose.
        slot: Of the worker, in which it was computed.
        sequence: Its number.
        batches: What it was computed from.
        progress: The share of the training that was over when they were drawn.
        updates: The updates of the shards after it.
        compute_seconds: Time that the worker spent on it.
        exchange_seconds: Time that the server spent on it.
        idle_seconds: See `WindowFigures`.
    """

    seconds: float
    worker: int
    slot: int
    sequence: int
    batches: Places
    progress: float
    updates: int
    compute_seconds: float
    exchange_seconds: float
    idle_seconds: float | None


LogEntry = LoggedRun | LoggedFetch | LoggedPush


class ExchangeLog:
    """Writes the log.

    Args:
        run: Whose `logs` directory to write to.
        start: The first line of this part.
        length: Where the checkpoint that training goes on from says that the log was, in bytes;
            None where it begins.
    """

    def __init__(self, run: RunDirectory, start: LoggedRun, length: int | None) -> None:
        self.path = run.logs / "exchanges.jsonl"
        with explain_write_errors(run.logs):
            run.logs.mkdir(parents=True, exist_ok=True)
            # what is shorter than the checkpoint says lacks a part, and can't be gone on with
            if length is None or not self.path.exists() or self.path.stat().st_size < length:
                length = 0
            self._file = self.path.open("ab")
            self._file.truncate(length)
            self._file.seek(length)
        self._write(
            {
                "event": "run",
                "format": LOG_FORMAT,
                "updates": start.updates,
                "threads": start.threads,
                "data": start.data,
                "settings": start.settings,
            }
        )

    def fetched(
        self,
        worker: int,
        slot: int,
        versions: tuple[int, ...],
        batches_before: int | None,
        seconds: float,
    ) -> None:
        """Note that a worker was handed the parameters without a push."""
        line: dict[str, Any] = {
            "event": "fetch",
            "seconds": round(seconds, 6),
            "worker": worker,
            "slot": slot,
        }
        if batches_before is not None:
            line["batches_before"] = batches_before
        self._write({**line, "versions": versions})

    def pushed(
        self,
        computed: ComputedWindow,
        batches: Places,
        versions: tuple[int, ...],
        exchange_seconds: float,
        seconds: float,
    ) -> None:
        """Note a push, with the versions after it."""
        push, figures = computed.push, computed.figures
        line: dict[str, Any] = {
            "event": "push",
            "seconds": round(seconds, 6),
            "worker": push.worker,
            "slot": push.slot,
            "sequence": push.sequence,
            "batches": batches,
            "progress": push.progress,
            "base_versions": push.base_versions,
            "versions": versions,
            "compute_seconds": round(figures.compute_seconds, 6),
            "exchange_seconds": round(exchange_seconds, 6),
        }
        if figures.idle_seconds is not None:
            line["idle_seconds"] = round(figures.idle_seconds, 6)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        with explain_write_errors(self.path):
            self._file.write(json.dumps(line, separators=(",", ":")).encode("utf-8") + b"\n")

    def length(self) -> int:
        """Bring everything to the file and return its length in bytes."""
        with explain_write_errors(self.path):
            self._file.flush()
            return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        with explain_write_errors(self.path):
            self._file.close()
