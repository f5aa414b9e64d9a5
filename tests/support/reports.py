"""Runs that were never trained: their logs, options and results, written as commands write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nmtasync.config.load import resolve, to_toml
from nmtasync.run_directory import RunDirectory

_COMPARED = {"name": "<i>other", "bleu": {"score": 1.0, "p_value": 0.0625}}

LineOfLog = dict[str, Any]


def train_line(updates: int, seconds: float, pace: float = 100.0, **more: Any) -> LineOfLog:
    """A line of training with two workers, of which the second is later."""
    return {
        "event": "train",
        "time_seconds": seconds,
        "batches": updates,
        "updates": updates,
        "epoch": updates / 100,
        "loss": 5.0 / (1 + updates / 50),
        "target_words_per_second": pace,
        "target_words_per_update": 50.0,
        "batches_per_push": 2.0,
        "learning_rate": 1e-3,
        "staleness_mean": 1.0,
        "staleness_by_worker": {"0": 0.5, "1": 1.5},
        "staleness_histogram": {"0": 1, "1": 2, "2": 1},
        **more,
    }


def valid_line(updates: int, seconds: float, bleu: float | None, **more: Any) -> LineOfLog:
    """A validation."""
    clocks = {"time_seconds": seconds, "batches": updates, "updates": updates, "epoch": 0.0}
    return {"event": "valid", **clocks, "cross_entropy": 2.0, "bleu": bleu, "best": True, **more}


def event_line(event: str, updates: int, seconds: float, **more: Any) -> LineOfLog:
    """Another line."""
    clocks = {"time_seconds": seconds, "batches": updates, "updates": updates, "epoch": 0.0}
    return {"event": event, **clocks, **more}


def logged_run(
    root: Path, lines: Iterable[LineOfLog], settings: dict[str, Any] | None = None
) -> RunDirectory:
    """Write a run with a log."""
    run = RunDirectory(root)
    run.logs.mkdir(parents=True)
    run.config.write_text(to_toml(resolve(settings or {})), "utf-8")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.logs / "metrics.jsonl").write_text(text, "utf-8")
    return run


def add_result(
    run: RunDirectory,
    name: str,
    hypotheses: Sequence[str],
    texts: tuple[Path, Path],
    **more: Any,
) -> None:
    """Add what `evaluate` leaves of a test set whose source and reference are files."""
    run.evaluation.mkdir(exist_ok=True)
    text = "".join(line + "\n" for line in hypotheses)
    (run.evaluation / f"{name}.hyp").write_text(text, "utf-8")
    sides = zip(("source", "reference"), texts, strict=True)
    content = {
        "name": name,
        **{metric: {"score": 12.5, "signature": "nrefs:1"} for metric in ("bleu", "chrf", "ter")},
        "target_language": "en",
        "checkpoint": 100,
        "significance": {"test": "bootstrap", "systems": [{"name": name}, _COMPARED]},
        "averaged_checkpoints": [100],
        "decoding": {"beam_size": 5},
        **{side: {"path": str(p), "sha256": _digest(p)} for side, p in sides},
        **more,
    }
    (run.evaluation / f"{name}.json").write_text(json.dumps(content), "utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
