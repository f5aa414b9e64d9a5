"""A log of exchanges read again, and whether it can be replayed here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtasync.checkpoints.state import MAX_ROLLBACKS_READ, TrainingState
from nmtasync.config.load import Settings, convert, to_settings
from nmtasync.config.schema import OPTIONS, Config
from nmtasync.config.sections.asynchronous import MAX_THREADS
from nmtasync.data.epochs import BATCH_OPTIONS
from nmtasync.errors import UserError
from nmtasync.machine.device import MAX_WORKERS
from nmtasync.training.reporting.exchange_log import (
    EVENTS,
    LOG_FORMAT,
    LogEntry,
    LoggedBatch,
    LoggedFetch,
    LoggedPush,
    LoggedRun,
)
from nmtasync.untrusted import parse_json, regular_size, shortened, typed
from nmtasync.worker.precision import compute_name

_SAME_WINDOWS = (
    *BATCH_OPTIONS,
    "asynchronous.optimizer_delay",
    "asynchronous.overlap",
    "asynchronous.own_shard",
    "asynchronous.local_write_back",
)
"""Options without which the log names other batches than were used, or slots that there are not."""

_OBJECTIVE = {
    "label_smoothing",
    "precision",
    "tf32",
    "compile",
    "init_from",
    "guided_alignment_weight",
    "guided_alignment_layer",
}
"""Options of the section [training] on which results depend."""

_DEAD_FROM_THE_START = 16
"""So many workers more than half may have died before their first push; each costs memory."""

_NO_MATTER = {"driver", "devices", "hosts", "num_shards", "threads", "max_restarts"}
"""Options of the section [asynchronous] on which results do not depend, or not by themselves: of
hosts the log says how many devices they have."""


def check_recording(
    recording: RecordedRun, config: Config, data_digest: str, state: TrainingState | None
) -> list[str]:
    """See that a log can be replayed here.

    Args:
        recording: The log.
        config: The experiment.
        data_digest: Hash of what RUN holds to train on.
        state: Of the checkpoint to go on from, if there is one.

    Returns:
        Options that differ from the recording and may change the result.

    Raises:
        UserError: It can't.
    """
    if state is not None and state.driver.get("replay", {}).get("log") != recording.digest:
        raise UserError(
            "can't be replayed from the latest checkpoint of RUN, which is of another run",
            where=recording.path,
            remedy="replay it into a new directory, or start anew with --no-resume",
        )
    settings = to_settings(config)
    for start in recording.starts:
        if start.data != data_digest:
            raise UserError(
                "was recorded on another corpus or vocabulary than RUN has", where=recording.path
            )
        for name in _SAME_WINDOWS:
            if (then := _setting(start.settings, name)) != settings[name]:
                raise UserError(
                    f"is {settings[name]!r}, but was {then!r} when {recording.path} was recorded",
                    where=name,
                    remedy="set it to that",
                )
    exchanges = [e for e in recording.entries if isinstance(e, LoggedFetch | LoggedPush)]
    _check_owners(recording, exchanges, config)
    if any(entry.slot >= config.asynchronous.num_slots for entry in exchanges):
        raise UserError(
            "names a slot that its workers do not have",
            where=recording.path,
            remedy="the log is damaged",
        )
    return [
        name
        for name in settings
        if _decides_results(name, config)
        and any(_setting(s.settings, name) != _setting(settings, name) for s in recording.starts)
    ]


def _check_owners(
    recording: RecordedRun, exchanges: Sequence[LoggedFetch | LoggedPush], config: Config
) -> None:
    """Refuse a log whose workers had other own shards than those of a replay, if that matters."""
    options = config.asynchronous
    if options.num_shards is not None:
        return
    if not options.local_write_back and options.own_shard != "batch":
        return
    for num_shards in {len(entry.versions) for entry in exchanges} - {recording.num_workers}:
        raise UserError(
            f"has {num_shards} shards, but its exchanges are of {recording.num_workers} workers, "
            "and each owns one shard",
            where=recording.path,
            remedy="record a run in which all workers take part, with the same devices throughout",
        )


def _setting(settings: Settings, name: str) -> Any:
    """What an option comes to; one that there was not yet did nothing, as its default does."""
    value = settings.get(name, OPTIONS[name].default)
    return compute_name(value) if name == "training.precision" else value


def _decides_results(name: str, config: Config) -> bool:
    section, key = name.split(".")
    if key == "num_shards":  # it says which shards are whose
        return config.asynchronous.own_shard == "batch"
    if section == "asynchronous":
        return key not in _NO_MATTER
    return section in ("model", "optimizer", "schedule") or key in _OBJECTIVE


@dataclass(frozen=True)
class RecordedRun:
    """A log that has been read.

    Attributes:
        path: Of the file.
        digest: Hash of its content.
        entries: Its lines.
    """

    path: Path
    digest: str
    entries: list[LogEntry]

    @property
    def starts(self) -> list[LoggedRun]:
        """The starts of training."""
        return [entry for entry in self.entries if isinstance(entry, LoggedRun)]

    @property
    def num_workers(self) -> int:
        """One more than the highest worker index."""
        return 1 + max(e.worker for e in self.entries if not isinstance(e, LoggedRun))


def read_exchange_log(path: Path) -> RecordedRun:
    """Read a log; a last line without an end, left by a killed process, is not counted.

    Raises:
        UserError: It can't be read, is no such log, does not begin at the beginning, or has a gap.
    """
    try:
        regular_size(path)
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise UserError(f"can't be read: {reason}", where=path, remedy="name a log") from None
    entries: list[LogEntry] = []
    sequences: dict[int, int] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        where = f"{path}:{number}"
        try:
            entry = _parse(parse_json(line), where)
        except ValueError as error:
            raise UserError(
                f"is no line of an exchange log: {error}", where=where, remedy="the log is damaged"
            ) from None
        entries.append(entry)
        if number == 1 and isinstance(entry, LoggedRun) and entry.updates != 0:
            raise UserError(
                f"begins at update {entry.updates}, and what came before was not logged",
                where=path,
            )
        if isinstance(entry, LoggedPush | LoggedBatch) and entry.sequence is not None:
            due = sequences.get(entry.worker, 0) + 1
            if entry.sequence != due:
                raise UserError(
                    f"is push {entry.sequence} of worker {entry.worker}, but {due} would follow",
                    where=where,
                    remedy="the log is damaged",
                )
            sequences[entry.worker] = due
    if not entries or not isinstance(entries[0], LoggedRun):
        raise UserError("does not begin like an exchange log", where=path)
    if not sequences:
        raise UserError("holds no push", where=path)
    recording = RecordedRun(path, hashlib.sha256(content).hexdigest(), entries)
    named = {entry.worker for entry in entries if not isinstance(entry, LoggedRun)}
    if recording.num_workers > 2 * len(named) + _DEAD_FROM_THE_START:
        raise UserError(
            f"names worker {recording.num_workers - 1}, but has only {len(named)} workers",
            where=path,
            remedy="the log is damaged",
        )
    return recording


def _parse(content: Any, where: str) -> LogEntry:
    line = dict(typed(dict[str, Any], content, "the line"))
    event = typed(str, line.pop("event", None), "event")
    if event not in EVENTS:
        raise ValueError(f"event can't be {shortened(repr(event))}")
    kind = EVENTS[event]
    if kind is LoggedRun and line.get("format") != LOG_FORMAT:
        written = shortened(repr(line.get("format")))
        raise UserError(
            f"was recorded in format {written}; this version replays {LOG_FORMAT}",
            where=where,
            remedy="replay it with the version that recorded it",
        )
    entry: LogEntry = typed(kind, line, "the line")
    if not isinstance(entry, LoggedRun | LoggedBatch) and not entry.versions:
        raise ValueError("versions can't be empty")
    if isinstance(entry, LoggedRun):
        _check_settings(entry)
    return entry


def _check_settings(start: LoggedRun) -> None:
    if not 1 <= start.threads <= MAX_THREADS:
        raise ValueError(f"threads can't be {start.threads}")
    if not 1 <= start.num_devices <= MAX_WORKERS:
        raise ValueError(f"num_devices can't be {start.num_devices}")
    if (start.rollbacks or 0) > MAX_ROLLBACKS_READ:
        raise ValueError(f"rollbacks can't be {start.rollbacks}")
    for name, value in start.settings.items():
        if name in OPTIONS:
            convert(OPTIONS[name], value, where=name)
