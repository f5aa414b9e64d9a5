"""RUN/logs/metrics.jsonl, as far as it can be read: a run may be under way, or have been killed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtasync.untrusted import MAX_NUMBER, parse_json, regular_size

_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """A line of the log.

    Attributes:
        event: What it tells of.
        seconds: Since training began.
        updates: Made until then.
        epoch: How far the corpus has been handed out; None where that is not said.
        figures: All that it holds, of any type.
    """

    event: str
    seconds: float
    updates: float
    epoch: float | None
    figures: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        """Return one of its figures if it is a finite number."""
        return number(self.figures.get(name))

    def numbers(self, name: str) -> dict[str, float]:
        """Return those entries of one of its figures that are finite numbers."""
        content = self.figures.get(name)
        known = content.items() if isinstance(content, dict) else ()
        return {
            key: value for key, value in ((k, number(v)) for k, v in known) if value is not None
        }

    def text(self, name: str) -> str:
        """Return one of its figures as text, empty where there is none."""
        value = self.figures.get(name)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class MetricsLog:
    """What could be read.

    Attributes:
        lines: In their order.
        num_unreadable: How many lines were damaged; half a line at the end is not.
    """

    lines: list[Line]
    num_unreadable: int


def number(value: Any) -> float | None:
    """Return what JSON holds if it is a finite number within reason."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= MAX_NUMBER else None


def read_metrics(path: Path) -> MetricsLog:
    """Read the log; there are no lines where there is no file yet.

    Raises:
        OSError: It can't be read.
        ValueError: It is no regular file.
    """
    lines: list[Line] = []
    num_unreadable = 0
    for raw in _raw_lines(path):
        line = _parse(raw)
        if line is not None:
            lines.append(line)
        elif raw.endswith(b"\n"):  # else it is being written, or its process was killed
            num_unreadable += 1
    return MetricsLog(lines, num_unreadable)


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        regular_size(path)
        with path.open("rb") as file:
            while raw := file.readline(_MAX_LINE_BYTES):
                yield raw
    except FileNotFoundError:
        return


def _parse(raw: bytes) -> Line | None:
    try:
        content = parse_json(raw)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("event"), str):
        return None
    seconds, updates, epoch = (number(content.get(k)) for k in ("time_seconds", "updates", "epoch"))
    if seconds is None or updates is None:
        return None
    return Line(content["event"], seconds, updates, epoch, content)


def that_stand(lines: Iterable[Line]) -> list[Line]:
    """Leave out what a run had done after the checkpoint that it was gone on with from.

    Args:
        lines: All of one event.
    """
    standing: list[Line] = []
    for line in lines:
        while standing and standing[-1].updates >= line.updates:
            standing.pop()
        standing.append(line)
    return standing


def intervals_that_stand(lines: Iterable[Line]) -> list[tuple[Line, float]]:
    """The lines of training that stand, each with the seconds that it is about.

    Args:
        lines: The whole log.
    """
    standing: list[tuple[Line, float]] = []
    begin: float | None = None  # of an interval that does not begin with the line before
    for line in lines:
        if line.event == "rollback":
            begin = line.seconds
        if line.event != "train":
            continue
        while standing and standing[-1][0].updates >= line.updates:
            standing.pop()
        if begin is None:
            begin = standing[-1][0].seconds if standing else 0.0
        standing.append((line, max(0.0, line.seconds - begin)))
        begin = None
    return standing
