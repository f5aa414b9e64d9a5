"""Checkpoints: what is scored is what is saved, and what was saved is there whole or not at all.

A checkpoint is a directory, RUN/checkpoints/UPDATES, of
    model.safetensors     the model's parameters by name: those that validation scored
    training.safetensors  the vectors [P] to go on from; kept for the last two checkpoints
    state.json            clocks, data position, config, hash of the vocabulary, checksums
`latest` and `best` beside them are text files that name one of the directories. What `latest` names
is not written again. A directory that it does not name yet may be there all the same, left by a
process that was killed; it is replaced.

RUN/checkpoints/NAME, whose name begins with a letter, is a mean of checkpoints: model.safetensors
and state.json. Training neither goes on from it nor counts it among its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import nmtasync
from nmtasync.checkpoints.checksums import (
    CHECKPOINT_FORMAT,
    MODEL,
    STATE,
    TRAINING,
    sealed,
)
from nmtasync.checkpoints.state import TrainingState
from nmtasync.errors import UserError
from nmtasync.optim.flat import Layout
from nmtasync.run_directory import (
    RunDirectory,
    directory_written_atomically,
    explain_write_errors,
    write_atomically,
    write_json,
)
from nmtasync.untrusted import number_of, read_document

_AVERAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")

RESUMABLE = 2
"""How many checkpoints keep what training needs to go on: if one is damaged, there is another."""


@dataclass(frozen=True)
class Snapshot:
    """One quiesced moment of training.

    Attributes:
        vectors: [P] by name, everything needed to go on.
        state: The rest.
    """

    vectors: dict[str, Tensor]
    state: TrainingState

    @property
    def scored(self) -> Tensor:
        """[P], what is validated and saved as the model: the moving average where it is on."""
        return self.vectors.get("average", self.vectors["parameters"])


def save(
    run: RunDirectory,
    snapshot: Snapshot,
    layout: Layout,
    needed: Collection[int] = (),
    *,
    changed: bool = False,
) -> Path:
    """Write a checkpoint, point `latest` at it, and drop the training state of the oldest.

    Args:
        run: Where.
        snapshot: What.
        layout: Where each parameter lies in the vectors.
        needed: Older checkpoints that keep theirs, by their updates.
        changed: Whether it is another than the one of as many updates that may be there.
    """
    updates = snapshot.state.updates
    path = run.checkpoints / str(updates)
    model = {name: view.contiguous() for name, view in layout.views(snapshot.scored).items()}
    with explain_write_errors(run.checkpoints):
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        _sweep(run)
        # one that `latest` does not name may be of a course cut off by a kill
        if changed or pointed(run, "latest") != updates:
            with directory_written_atomically(path) as aside:
                _save_tensors(model, aside / MODEL)
                _save_tensors(snapshot.vectors, aside / TRAINING)
                _write_state(snapshot.state, aside)
        point(run, "latest", updates)
    for number in list_checkpoints(run)[:-RESUMABLE]:
        if number not in needed:
            (run.checkpoints / str(number) / TRAINING).unlink(missing_ok=True)
    return path


def save_average(
    run: RunDirectory, name: str, model: Mapping[str, Tensor], state: TrainingState
) -> Path:
    """Write a mean of checkpoints, in the place of one that has its name.

    Args:
        run: Where.
        name: What it is called.
        model: Its parameters by name, in float32.
        state: That of the newest of those that it is of, with `averaged`.
    """
    path = run.checkpoints / name
    with explain_write_errors(path), directory_written_atomically(path) as aside:
        _save_tensors(dict(model), aside / MODEL)
        _write_state(state, aside)
    return path


def _write_state(state: TrainingState, directory: Path) -> None:
    content = {
        "format": CHECKPOINT_FORMAT,
        "nmtasync": nmtasync.__version__,
        "torch": torch.__version__,
        **state.to_json(),
    }
    write_json(directory / STATE, sealed(content, directory))


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # it wraps what the operating system said
        code = str(error).rpartition("os error ")[2].partition(")")[0]
        if not code.isdigit():
            raise
        raise OSError(int(code), os.strerror(int(code)), str(path)) from None
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # the library makes it private


def _sweep(run: RunDirectory) -> None:
    for leftover in (*run.checkpoints.glob(".*.tmp"), *run.checkpoints.glob(".*.old")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def point(run: RunDirectory, name: str, updates: int) -> None:
    """Let the pointer `name`, "latest" or "best", name a checkpoint."""
    with explain_write_errors(run.checkpoints):
        write_atomically(run.checkpoints / name, f"{updates}\n")


def pointed(run: RunDirectory, name: str) -> int | None:
    """Return the checkpoint that a pointer names, or None where there is none.

    Raises:
        UserError: It names none.
    """
    where, remedy = run.checkpoints / name, "write the number of a checkpoint into it"
    try:
        number = number_of(read_document(where).decode("utf-8").strip())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", where=where, remedy=remedy) from None
    except ValueError:
        number = None
    if number is None:
        raise UserError("does not name a checkpoint", where=where, remedy=remedy)
    return number


def prune(run: RunDirectory, keep: int, needed: Collection[int] = ()) -> None:
    """Delete all but the newest `keep` checkpoints, two at least, those needed and those named."""
    spared = {pointed(run, "latest"), pointed(run, "best"), *needed}
    for number in list_checkpoints(run)[: -max(keep, RESUMABLE)]:
        if number not in spared:
            shutil.rmtree(run.checkpoints / str(number), ignore_errors=True)


def discard_all(run: RunDirectory) -> None:
    """Delete all checkpoints and means of them, the pointers first."""
    for name in ("latest", "best", "validations.json"):
        (run.checkpoints / name).unlink(missing_ok=True)
    with explain_write_errors(run.checkpoints):
        discard(run, [*list_checkpoints(run), *list_averages(run)])


def discard(run: RunDirectory, names: Iterable[int | str]) -> None:
    """Delete checkpoints: all names first, so that no kill leaves a part to go on from."""
    for name in names:
        (run.checkpoints / str(name)).rename(run.checkpoints / f".{name}.old")
    _sweep(run)


def list_checkpoints(run: RunDirectory) -> list[int]:
    """List the checkpoints by their updates, the oldest first; links are none."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(
        number
        for path in run.checkpoints.iterdir()
        if (number := number_of(path.name)) is not None
        and path.is_dir()
        and not path.is_symlink()  # what it leads to is not this run's to delete or write
    )


def list_averages(run: RunDirectory) -> list[str]:
    """List the means of checkpoints by their names; links are none."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(
        path.name
        for path in run.checkpoints.iterdir()
        if is_average_name(path.name) and path.is_dir() and not path.is_symlink()
    )


def is_average_name(name: str) -> bool:
    """Whether a mean of checkpoints may be called so: no number, no pointer, a plain file name."""
    return _AVERAGE_NAME.fullmatch(name) is not None and name not in ("best", "latest")
