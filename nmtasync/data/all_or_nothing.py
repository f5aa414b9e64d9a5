"""How the results of preprocessing get into RUN: all or nothing.

Everything is written into RUN/.preprocess.tmp and synced to the disk. One rename to
RUN/.preprocess.ready decides: before it RUN is as it was, after it the result will take its place,
if need be by the next `preprocess`, which finishes what was cut off.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, sync, sync_tree

_ASIDE, _READY = ".preprocess.tmp", ".preprocess.ready"


@contextlib.contextmanager
def all_or_nothing(run: RunDirectory, *, overwrite: bool) -> Iterator[Path]:
    """Yield a directory to fill with `vocab`, `data`, `config.toml` and `manifest.json`.

    They go into RUN when the block ends without an exception. The caller holds RUN's lock.

    Args:
        run: Where they go.
        overwrite: Whether they may replace those of an earlier preprocessing.

    Raises:
        UserError: RUN has a place taken that must not be replaced.
    """
    aside, ready = run.root / _ASIDE, run.root / _READY
    if ready.exists():
        _install(run, ready)
    refuse_taken(run, overwrite=overwrite)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        sync_tree(aside)
        aside.rename(ready)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(run.root)
    _install(run, ready)


def refuse_taken(run: RunDirectory, *, overwrite: bool) -> None:
    """Refuse to replace what the user may still want.

    Raises:
        UserError: RUN is preprocessed and `overwrite` is False, or checkpoints depend on it, or
            something that preprocessing has not written stands where it writes.
    """
    if run.manifest.exists():
        if not overwrite:
            raise UserError(
                "is already preprocessed",
                where=run.root,
                remedy="choose another directory, or replace its data with --overwrite",
            )
        if run.checkpoints.is_dir() and any(run.checkpoints.iterdir()):
            raise UserError(
                "holds checkpoints that were trained on its present data and vocabulary",
                where=run.root,
                remedy=f"choose another directory, or remove {run.checkpoints} first",
            )
        return
    for path in (run.vocab, run.data, run.config):
        if path.exists():
            raise UserError(
                "is in the way, and was not written by preprocessing",
                where=path,
                remedy="choose another directory for RUN, or move it away",
            )


def _install(run: RunDirectory, ready: Path) -> None:
    """Move the results to their places, the manifest last; can be cut off and done again."""
    if (ready / run.manifest.name).exists():
        run.manifest.unlink(missing_ok=True)
    for path in (run.vocab, run.data, run.config, run.manifest):
        new = ready / path.name
        if new.exists():
            if path.is_dir():
                shutil.rmtree(path)
            new.rename(path)
            sync(run.root)
    shutil.rmtree(ready)
