"""Which checkpoint training goes on from. Nothing is deleted here: what is set aside is renamed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from nmtasync.checkpoints import store
from nmtasync.checkpoints.checksums import TRAINING, damage
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, explain_write_errors

ANEW = "start anew with --no-resume, which deletes them"
_MISSING = "is missing"


@dataclass(frozen=True)
class ResumePoint:
    """Where training goes on.

    Attributes:
        updates: The checkpoint.
        message: What the user must be told about it, if anything.
    """

    updates: int
    message: str = ""


def find_resume_point(run: RunDirectory, wanted: int | None = None) -> ResumePoint | None:
    """Find the checkpoint to go on from.

    Args:
        run: The directory.
        wanted: The checkpoint that the user names; None for the latest.

    Returns:
        The checkpoint; None where there is none at all.

    Raises:
        UserError: There are checkpoints, but that one is damaged, or none is whole.
    """
    known = store.list_checkpoints(run)
    if wanted is not None:
        return ResumePoint(_checked(run, known, wanted))
    latest, fault = _pointed(run, "latest")
    if latest in known:
        return ResumePoint(_checked(run, known, latest))
    if not known and latest is None and fault == _MISSING:
        return None
    if latest is not None:
        fault = f"names checkpoint {latest}, which is missing"
    newest = _newest_whole(run, known)
    if newest is None:
        others = (
            f"of those there ({_listed(known)}) none is whole" if known else "no other is there"
        )
        raise UserError(
            f"{fault}, and {others}",
            where=run.checkpoints / "latest",
            remedy=f"bring them back from a copy, or {ANEW}",
        )
    place = run.checkpoints / "latest"
    return ResumePoint(newest, f"{place} {fault}: going on from the newest whole one, {newest}")


def _checked(run: RunDirectory, known: list[int], updates: int) -> int:
    """See that training can go on from a checkpoint; offer the one before it if not."""
    if updates not in known:
        have = f"there are {_listed(known)}" if known else "there is none"
        raise UserError(f"holds no checkpoint {updates}; {have}", where=run.root)
    fault = damage(run.checkpoints / str(updates), TRAINING)
    if fault is None:
        return updates
    before = _newest_whole(run, [number for number in known if number < updates])
    if before is None:
        remedy = f"bring it back from a copy, or {ANEW}"
        raise UserError(fault.message, where=fault.where, remedy=remedy)
    raise UserError(
        fault.message,
        where=fault.where,
        remedy=f"go on from the one before: nmtasync train {run.root} --resume-from {before}",
    )


def _pointed(run: RunDirectory, name: str) -> tuple[int | None, str]:
    """Read a pointer; beside None, what is wrong with it."""
    try:
        return store.pointed(run, name), _MISSING
    except UserError as error:
        return None, error.message


def _newest_whole(run: RunDirectory, numbers: list[int]) -> int | None:
    for number in reversed(numbers):
        if damage(run.checkpoints / str(number), TRAINING) is None:
            return number
    return None


def set_aside_later(run: RunDirectory, updates: int) -> list[str]:
    """Rename the checkpoints of a course that is given up, and point `latest` at its new end.

    Args:
        run: The directory.
        updates: The checkpoint that training goes on from.

    Returns:
        The new names, "400.set-aside" for example.
    """
    renamed = []
    with explain_write_errors(run.checkpoints):
        for number in store.list_checkpoints(run):
            if number > updates:
                aside = _free_name(run.checkpoints / f"{number}.set-aside")
                (run.checkpoints / str(number)).rename(aside)
                renamed.append(aside.name)
    if _pointed(run, "best")[0] not in store.list_checkpoints(run):
        (run.checkpoints / "best").unlink(missing_ok=True)
    if _pointed(run, "latest")[0] != updates:
        store.point(run, "latest", updates)
    return renamed


def _free_name(path: Path) -> Path:
    names = itertools.chain([""], (f"-{again}" for again in itertools.count(2)))
    return next(free for name in names if not (free := Path(f"{path}{name}")).exists())


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
