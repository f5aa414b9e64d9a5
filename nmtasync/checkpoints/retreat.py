"""Back to an earlier checkpoint, where what came after it has gone astray."""

from __future__ import annotations

from nmtasync.checkpoints import store
from nmtasync.checkpoints.history import ValidationHistory
from nmtasync.run_directory import RunDirectory


def retreat(run: RunDirectory, updates: int | None, metric: str) -> None:
    """Let a checkpoint be the newest, and delete those after it.

    Args:
        run: Where.
        updates: Which checkpoint; None where none is worth going back to.
        metric: What decides which is the best of those that stay.
    """
    until = -1 if updates is None else updates
    if updates is not None:
        store.point(run, "latest", updates)
    else:
        (run.checkpoints / "latest").unlink(missing_ok=True)
    if (store.pointed(run, "best") or 0) > until:
        history, there = ValidationHistory(run, metric, until), store.list_checkpoints(run)
        history.validations = [v for v in history.validations if v.updates in there]
        if history.best is not None:
            store.point(run, "best", history.best.updates)
        else:
            (run.checkpoints / "best").unlink(missing_ok=True)
    later = [number for number in store.list_checkpoints(run) if number > until]
    store.discard(run, reversed(later))
