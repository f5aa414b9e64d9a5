"""The limits of a training run: which has been reached, and how far training has come."""

from __future__ import annotations

from pathlib import Path

from nmtasync.config.schema import TrainingConfig
from nmtasync.machine.signals import PREEMPTED


def share_done(limits: TrainingConfig, seconds: float, updates: int, epochs: float) -> float | None:
    """Return the share of the training that is over, by the limit that is nearest.

    Args:
        limits: `max_minutes`, `max_updates` and `max_epochs`.
        seconds: Since training began.
        updates: Of the shards.
        epochs: How often the corpus has been read.

    Returns:
        From 0 to 1; None without limits.
    """
    parts = [
        done / limit
        for done, limit in (
            (seconds, 60 * (limits.max_minutes or 0.0)),
            (updates, limits.max_updates),
            (epochs, limits.max_epochs),
        )
        if limit
    ]
    return min(1.0, max(parts)) if parts else None


def notice_given(options: TrainingConfig) -> str | None:
    """Return why training must end if the file of `preemption_file` says that it must."""
    notice = options.preemption_file
    return PREEMPTED if notice is not None and Path(notice).exists() else None


def limit_reached(
    limits: TrainingConfig, seconds: float, updates: int, *, exhausted: bool, num_since_best: int
) -> str | None:
    """Return why training is over, or None while it is not.

    Args:
        limits: Those of `share_done`, and `patience`.
        seconds: Since training began.
        updates: Of the shards.
        exhausted: Whether every batch of every epoch has been used.
        num_since_best: Validations in a row that were not better than the best.
    """
    if limits.max_minutes is not None and seconds >= 60 * limits.max_minutes:
        return f"reached training.max_minutes = {limits.max_minutes:g}"
    if limits.max_updates is not None and updates >= limits.max_updates:
        return f"reached training.max_updates = {limits.max_updates}"
    if exhausted:
        return f"reached training.max_epochs = {limits.max_epochs}"
    if limits.patience is not None and num_since_best >= limits.patience:
        return f"no better validation for training.patience = {limits.patience} times"
    return None
