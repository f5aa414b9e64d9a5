"""How the results of preprocessing get into RUN: all or nothing.

Everything is written into RUN/.preprocess.tmp and synced to the disk. One rename to
RUN/.preprocess.ready decides: before it RUN is as it was, after it the result will take its place,
if need be by the next `preprocess`, which finishes what was cut off. What was cut off before it is
gone on with if the next one is asked for the same.

RUN/data and RUN/vocab may be links to another disk, or such a disk may be mounted there. What
belongs there is written there, to DIRECTORY/.preprocess.tmp, since no rename leads from disk to
disk; in RUN/.preprocess.tmp stands a link to it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from nmtasync.data.vocabulary import JOINT_NAME, SOURCE_NAME, TARGET_NAME
from nmtasync.errors import UserError
from nmtasync.run_directory import (
    RunDirectory,
    refuse_dead_link,
    sync,
    sync_tree,
    write_atomically,
)

_ASIDE, _MOVING = ".preprocess.tmp", ".preprocess.ready"
_JOB = "job.json"

_WRITTEN = {"vocab": (JOINT_NAME, SOURCE_NAME, TARGET_NAME), "data": ("train", "valid")}
"""What preprocessing has written into directories that stay: only that is replaced there."""


@contextlib.contextmanager
def all_or_nothing(run: RunDirectory, *, overwrite: bool, job: str | None = None) -> Iterator[Path]:
    """Yield a directory to fill: the directories `vocab` and `data`, config.toml, manifest.json.

    They go into RUN when the block ends without an exception. The caller holds RUN's lock.

    Args:
        run: Where they go.
        overwrite: Whether they may replace those of an earlier preprocessing.
        job: What is done, if it can be gone on with: after an end that is no fault of the input
            what is there stays, and an equal job finds it.

    Raises:
        UserError: RUN has a place taken that must not be replaced.
    """
    aside = run.root / _ASIDE
    if run.ready.exists():
        _install(run)
    refuse_taken(run, overwrite=overwrite)
    if job is None or _read_job(aside) != job:
        _clear(run)
    try:
        if not aside.exists():
            _begin(run, aside)
            if job is not None:
                write_atomically(aside / _JOB, job)
        yield aside
        (aside / _JOB).unlink(missing_ok=True)
        for directory in (aside / run.vocab.name, aside / run.data.name, aside):
            sync_tree(directory)
        aside.rename(run.ready)
    except BaseException as error:
        can_go_on = job is not None and not isinstance(error, UserError)
        if not run.ready.exists() and not can_go_on:
            _clear(run)
        raise
    sync(run.root)
    _install(run)


def _begin(run: RunDirectory, aside: Path) -> None:
    aside.mkdir()
    for path in (run.vocab, run.data):
        if _stays(path):
            (path / _ASIDE).mkdir()
            (aside / path.name).symlink_to(Path("..") / path.name / _ASIDE)
        else:
            (aside / path.name).mkdir()


def _read_job(aside: Path) -> str | None:
    try:
        return (aside / _JOB).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def refuse_taken(run: RunDirectory, *, overwrite: bool) -> None:
    """Refuse to replace what the user may still want.

    Raises:
        UserError: RUN is preprocessed and `overwrite` is False, or checkpoints depend on it, or
            something that preprocessing has not written stands where it writes.
    """
    for path in (run.vocab, run.data):
        refuse_dead_link(path)
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
        if path.exists() and not _is_free(path):
            raise UserError(
                "is in the way, and was not written by preprocessing",
                where=path,
                remedy="choose another directory for RUN, or move it away",
            )


def _stays(path: Path) -> bool:
    """Whether a directory can't be replaced as a whole, by a rename."""
    return path.is_symlink() or path.is_mount()


def _is_free(path: Path) -> bool:
    """Whether a directory holds nothing but what a new disk has, and leftovers of ours."""
    return path.is_dir() and {p.name for p in path.iterdir()} <= {"lost+found", _ASIDE}


def _clear(run: RunDirectory) -> None:
    for directory in (run.vocab, run.data, run.root):
        shutil.rmtree(directory / _ASIDE, ignore_errors=True)


def _install(run: RunDirectory) -> None:
    """Move the results to their places, the manifest last; can be cut off and done again."""
    if (run.ready / run.manifest.name).exists():
        run.manifest.unlink(missing_ok=True)
    for path in (run.vocab, run.data, run.config, run.manifest):
        new = run.ready / path.name
        if new.is_symlink():
            _install_within(path)
            new.unlink()
        elif new.exists():
            if path.is_symlink() and path.is_dir():
                raise UserError(
                    "has become a link since preprocessing wrote what belongs there",
                    where=path,
                    remedy="remove the link and run `nmtasync preprocess` again",
                )
            if path.is_dir():
                shutil.rmtree(path)
            new.rename(path)
            sync(run.root)
    shutil.rmtree(run.ready)


def _install_within(directory: Path) -> None:
    """Replace what preprocessing has written into a directory that stays; likewise."""
    aside, moving, names = directory / _ASIDE, directory / _MOVING, _WRITTEN[directory.name]
    if aside.is_dir():  # all of it, so what it replaces may go
        for old in (directory / name for name in names):
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        aside.rename(moving)
        sync(directory)
    if moving.is_dir():
        for new in list(moving.iterdir()):
            new.rename(directory / new.name)
        sync(directory)
        moving.rmdir()
    elif not any((directory / name).exists() for name in names):
        raise UserError(
            "lacks what preprocessing has written there",
            where=directory,
            remedy="mount its disk, or let the link lead there again",
        )
