"""What a training run has come to, out of its logs/metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nmtasync.errors import UserError
from nmtasync.machine.signals import EXIT_CODES
from nmtasync.run_directory import RunDirectory

Line = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A validation.

    Attributes:
        seconds: When its snapshot was taken, virtual or real.
        target_words: That had been trained on until then.
        bleu: From 0 to 100.
    """

    seconds: float
    target_words: float
    bleu: float


@dataclass(frozen=True)
class Measured:
    """A run in figures.

    Attributes:
        ended: Why training ended; None if it did not, or was stopped.
        seconds: How long it took until its last line, virtual or real.
        target_words_per_second: Over the whole of it.
        target_words_per_update: On average.
        staleness: Mean of all pushes and shards, in updates.
        points: Its validations, in the order of time.
    """

    ended: str | None
    seconds: float
    target_words_per_second: float
    target_words_per_update: float
    staleness: float
    points: list[Point]

    @property
    def best_bleu(self) -> float | None:
        """The best of all validations, if there was one."""
        return max((point.bleu for point in self.points), default=None)

    def seconds_to(self, target: float) -> float | None:
        """When BLEU reached a target, or None if it never did.

        The straight line from the last validation below it to the first that is not tells when;
        training begins with BLEU 0.
        """
        before = Point(0.0, 0.0, 0.0)
        for point in self.points:
            if point.bleu >= target:
                share = (target - before.bleu) / (point.bleu - before.bleu)
                return before.seconds + share * (point.seconds - before.seconds)
            before = point
        return None


def measure(run: RunDirectory) -> Measured | None:
    """Read the figures of a run; None if it has trained nothing yet.

    Raises:
        UserError: The log can't be read.
    """
    lines = _read(run)
    training = _that_stand(line for line in lines if line["event"] == "train")
    if not training:
        return None
    updates = [line["updates"] for line in training]
    since = [now - before for before, now in zip([0, *updates], updates, strict=False)]
    words = [
        count * line["target_words_per_update"] for count, line in zip(since, training, strict=True)
    ]
    stale = [count * line["staleness_mean"] for count, line in zip(since, training, strict=True)]
    per_update = sum(words) / updates[-1]
    seconds = training[-1]["time_seconds"]
    validations = _that_stand(line for line in lines if line["event"] == "valid")
    return Measured(
        ended=_end(lines),
        seconds=seconds,
        target_words_per_second=sum(words) / seconds,
        target_words_per_update=per_update,
        staleness=sum(stale) / updates[-1],
        points=[
            Point(line["time_seconds"], line["updates"] * per_update, line["bleu"])
            for line in validations
            if line["bleu"] is not None
        ],
    )


def _read(run: RunDirectory) -> list[Line]:
    path = run.logs / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
        # a killed process may have left half a line at the end of what it wrote
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"can't be read: {error}", where=path) from None


def _that_stand(lines: Iterable[Line]) -> list[Line]:
    """Leave out what a killed run had done after the checkpoint that it was resumed from."""
    standing: list[Line] = []
    for line in lines:
        while standing and standing[-1]["updates"] >= line["updates"]:
            standing.pop()
        standing.append(line)
    return standing


def _end(lines: list[Line]) -> str | None:
    """Why the run ended, if it did and has not been gone on with."""
    if lines[-1]["event"] != "end" or lines[-1]["reason"] in EXIT_CODES:
        return None
    return str(lines[-1]["reason"])
