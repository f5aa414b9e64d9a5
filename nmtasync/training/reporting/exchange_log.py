"""RUN/logs/exchanges.jsonl: all that workers and server did with each other, in its order.

A line is an object with an `event`:
    run     training has (re)started; all workers are new to come: settings, data, threads
    fetch   a worker was handed the parameters without a push
    push    a worker's push was taken, and the worker handed the parameters after it
    batch   in the middle of a window, a worker's own shards took a batch's gradient, or were
            written over by the step that it made with it
This is enough to repeat a run exactly, since a gradient is a pure function of parameters, batch
and seed. A checkpoint knows the length of the log at its moment; a run that goes on from there
goes on with the log from there, too, and cuts off what came after.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from nmtasync.run_directory import RunDirectory, explain_write_errors
from nmtasync.training.reporting.appended_file import AppendedFile
from nmtasync.worker.window import ComputedWindow

LOG_FORMAT = 2

Places = tuple[tuple[int, int], ...]
"""Batches, each by epoch and index."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """Training has started, or started again.

    Attributes:
        updates: Those made before.
        threads: CPU threads of each worker, or of each device of its host.
        data: Hash of what was trained on.
        settings: Every option by its full name.
        format: Of the log.
        rollbacks: How often training had diverged and gone back; none if it had not. The settings
            have the learning rates of before.
        num_devices: How many devices compute for each worker: those of its host, if that is one.
    """

    updates: int
    threads: int
    data: str
    settings: dict[str, Any]
    format: int = LOG_FORMAT
    rollbacks: int | None = None
    num_devices: int = 1


@dataclass(frozen=True, slots=True)
class LoggedFetch:
    """A worker was handed the parameters without a push.

    Attributes:
        seconds: When.
        worker: Who.
        slot: Of the worker, for which it was handed them.
        versions: Of the shards.
        batches_before: Of a worker that has just been started, whose local optimizer begins
            anew: the batches that its predecessors computed. None of one that goes on.
    """

    seconds: float
    worker: int
    slot: int
    versions: tuple[int, ...]
    batches_before: int | None = None


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
        base_versions: Of the shards, when the worker fetched.
        versions: Of the shards after the push.
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
    base_versions: tuple[int, ...]
    versions: tuple[int, ...]
    compute_seconds: float
    exchange_seconds: float
    idle_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    """A worker's own shards have changed with a batch, in the middle of a window.

    Attributes:
        seconds: When.
        worker: Whose.
        batches: All of the window.
        number: Which of them it was, from 0 on.
        progress: The share of the training that was over when they were drawn.
        sequence: The number of the push for its own shards; None where the worker's replica was
            written over them.
    """

    seconds: float
    worker: int
    batches: Places
    number: int
    progress: float
    sequence: int | None = None


LogEntry = LoggedRun | LoggedFetch | LoggedPush | LoggedBatch

EVENTS: dict[str, type[LogEntry]] = {
    "run": LoggedRun,
    "fetch": LoggedFetch,
    "push": LoggedPush,
    "batch": LoggedBatch,
}
"""What the field "event" of a line says of it; the other fields are those of the entry."""


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
        self._start = start
        self._length = length or 0

    def begin(self) -> None:
        """Cut the file off where training goes on, and write the first line of this part."""
        length = self._length
        with explain_write_errors(self.path):
            # what is shorter than the checkpoint says lacks a part, and can't be gone on with
            if not self.path.exists() or self.path.stat().st_size < length:
                length = 0
        self._file = AppendedFile(self.path, length)
        self.write(self._start)

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
        self.write(
            LoggedPush(
                seconds,
                push.worker,
                push.slot,
                push.sequence,
                batches,
                push.progress,
                push.base_versions,
                versions,
                figures.compute_seconds,
                exchange_seconds,
                figures.idle_seconds,
            )
        )

    def write(self, entry: LogEntry) -> None:
        """Add a line; what is None is left out, and times are rounded to microseconds."""
        (event,) = (name for name, kind in EVENTS.items() if kind is type(entry))
        line: dict[str, Any] = {"event": event}
        for field in dataclasses.fields(entry):
            value = getattr(entry, field.name)
            if value is not None:
                line[field.name] = round(value, 6) if "seconds" in field.name else value
        self._file.append(json.dumps(line, separators=(",", ":")).encode("utf-8") + b"\n")

    def length(self) -> int:
        """Bring everything to the file and return its length in bytes."""
        return self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
