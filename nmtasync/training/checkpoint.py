"""Checkpoints: what is scored is what is saved, and what was saved is there whole or not at all.

A checkpoint is a directory, RUN/checkpoints/UPDATES, of
    model.safetensors     the model's parameters by name: those that validation scored
    training.safetensors  the vectors [P] to go on from; kept for the newest checkpoint only
    state.json            clocks, data position, config, hash of the vocabulary
`latest` and `best` beside them are text files that name one of the directories. What `latest` names
is not written again. A directory that it does not name yet may be there all the same, left by a
process that was killed; it is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import nmtasync
from nmtasync.config.load import as_dict, check, find_option, resolve
from nmtasync.config.schema import Config
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import (
    RunDirectory,
    directory_written_atomically,
    explain_write_errors,
    write_atomically,
    write_json,
)
from nmtasync.server.server import Server

CHECKPOINT_FORMAT = 1
MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"


@dataclass(frozen=True)
class Snapshot:
    """One quiesced moment of training.

    Attributes:
        vectors: [P] by name, everything needed to go on.
        state: The rest, for JSON: clocks and data position.
    """

    vectors: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def scored(self) -> Tensor:
        """[P], what is validated and saved as the model: the moving average where it is on."""
        return self.vectors.get("average", self.vectors["parameters"])

    @property
    def updates(self) -> int:
        """When it was taken."""
        updates = self.state["updates"]
        assert isinstance(updates, int)
        return updates


def save(
    run: RunDirectory, snapshot: Snapshot, flat: FlatModel[SequenceToSequence], config: Config
) -> Path:
    """Write a checkpoint, point `latest` at it, and drop the training state of older ones.

    Args:
        run: Where.
        snapshot: What.
        flat: A model that says how the vector is laid out; its parameters are not read.
        config: Saved along, so that the model can be built again.
    """
    path = run.checkpoints / str(snapshot.updates)
    tensors = zip(flat.model.named_parameters(), flat.views(snapshot.scored), strict=True)
    model = {name: view.contiguous() for (name, _), view in tensors}
    state = {
        "format": CHECKPOINT_FORMAT,
        "nmtasync": nmtasync.__version__,
        "torch": torch.__version__,
        **snapshot.state,
        "config": as_dict(config),
    }
    with explain_write_errors(run.checkpoints):
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        _sweep(run)
        if pointed(run, "latest") != snapshot.updates:  # or it may be of a course cut off by a kill
            with directory_written_atomically(path) as aside:
                _save_tensors(model, aside / MODEL)
                _save_tensors(snapshot.vectors, aside / TRAINING)
                write_json(aside / STATE, state)
        write_atomically(run.checkpoints / "latest", path.name + "\n")
    for number in list_checkpoints(run):
        if number != snapshot.updates:
            (run.checkpoints / str(number) / TRAINING).unlink(missing_ok=True)
    return path


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
    for leftover in run.checkpoints.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in run.checkpoints.glob(".*.old"):
        shutil.rmtree(leftover, ignore_errors=True)


def point(run: RunDirectory, name: str, updates: int) -> None:
    """Let the pointer `name` ("best") name a checkpoint."""
    with explain_write_errors(run.checkpoints):
        write_atomically(run.checkpoints / name, f"{updates}\n")


def pointed(run: RunDirectory, name: str) -> int | None:
    """Return the checkpoint that a pointer names, or None where there is none."""
    try:
        return int((run.checkpoints / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError("does not name a checkpoint", where=run.checkpoints / name) from None


def prune(run: RunDirectory, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and those that a pointer names."""
    pointers = {pointed(run, "latest"), pointed(run, "best")}
    for number in list_checkpoints(run)[:-keep]:
        if number not in pointers:
            shutil.rmtree(run.checkpoints / str(number), ignore_errors=True)


def discard_all(run: RunDirectory) -> None:
    """Delete all checkpoints, the pointers first."""
    for name in ("latest", "best", "validations.json"):
        (run.checkpoints / name).unlink(missing_ok=True)
    with explain_write_errors(run.checkpoints):
        for number in list_checkpoints(run):
            shutil.rmtree(run.checkpoints / str(number))


def list_checkpoints(run: RunDirectory) -> list[int]:
    """List the checkpoints by their updates, the oldest first."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in run.checkpoints.iterdir() if path.name.isdigit())


def read_state(run: RunDirectory, updates: int, vocabulary_digest: str) -> dict[str, Any]:
    """Read the state of a checkpoint and see that it belongs to RUN.

    Raises:
        UserError: It is damaged, of another format, or of another vocabulary.
    """
    path = run.checkpoints / str(updates)
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"is no checkpoint: {error}", where=path) from None
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(
            f"was written in another format than {CHECKPOINT_FORMAT}, which nmtasync "
            f"{nmtasync.__version__} reads",
            where=path,
        )
    if state["vocabulary"] != vocabulary_digest:
        raise UserError(
            "was trained with another vocabulary than the one in RUN/vocab",
            where=path,
            remedy="use the directory that it was trained in, or train anew with --no-resume",
        )
    return state


def read_vectors(run: RunDirectory, updates: int) -> dict[str, Tensor]:
    """Read the vectors [P] to go on from.

    Raises:
        UserError: They are missing or damaged.
    """
    return _load_tensors(run.checkpoints / str(updates) / TRAINING, "cpu")


def restore_server(server: Server, vectors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Let the server go on from what a checkpoint, or a snapshot in memory, holds.

    Args:
        server: The server.
        vectors: [P] by name.
        state: What `Session.state` said.
    """
    sequences = {int(worker): sequence for worker, sequence in state["last_sequences"].items()}
    server.restore(vectors, int(state["updates"]), sequences, state["rule"])


def _load_tensors(path: Path, device: str) -> dict[str, Tensor]:
    try:
        return load_file(path, device=device)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't be read: {error}", where=path) from None


def read_config(state: dict[str, Any], where: Path) -> Config:
    """Build the config that a checkpoint was trained with."""
    settings = {}
    for section, content in state["config"].items():
        for key, value in content.items():
            field = find_option(f"{section}.{key}", where=where)
            settings[field.name] = check(field, value, where=where)
    return resolve(settings)


def find(run: RunDirectory, which: str) -> int:
    """Find a checkpoint by its number, or by a pointer, "best" or "latest".

    Raises:
        UserError: There is no such checkpoint.
    """
    known = list_checkpoints(run)
    if not known:
        raise UserError(
            "holds no checkpoint", where=run.root, remedy=f"run `nmtasync train {run.root}`"
        )
    # validation of the first checkpoint may not have ended yet
    number = int(which) if which.isdigit() else pointed(run, which) or pointed(run, "latest")
    if number is None or number not in known:
        have = ", ".join(str(k) for k in known)
        raise UserError(f"holds no checkpoint {which}; there are {have}", where=run.root)
    return number


def load_model(
    run: RunDirectory, which: str = "best", device: str = "cpu", average: int = 1
) -> tuple[SequenceToSequence, Config, list[int]]:
    """Load a trained model, ready for translation.

    Args:
        run: Where it was trained.
        which: "best", "latest", or the number of a checkpoint.
        device: Where to put it.
        average: How many checkpoints to average, that one and the newest before it.

    Returns:
        The model in evaluation mode, the config it was trained with, and the updates of the
        checkpoints that it was made of, the oldest first.

    Raises:
        UserError: There are no such checkpoints, or they do not belong to RUN.
    """
    run.read_manifest()
    vocabularies = VocabularyPair.load(run.vocab)
    numbers = _last_checkpoints(run, find(run, which), average)
    states = [read_state(run, number, vocabularies.digest()) for number in numbers]
    config = read_config(states[-1], run.checkpoints / str(numbers[-1]))
    model = build_model(config.model, vocabularies.source.size, vocabularies.target.size)
    parameters = dict(model.named_parameters())
    sums: dict[str, Tensor] = {}
    for number in numbers:
        for name, tensor in _load_parameters(run.checkpoints / str(number), parameters).items():
            sums[name] = sums[name].add_(tensor) if name in sums else tensor.double()
    for name, parameter in parameters.items():
        parameter.data = (sums[name] / len(numbers)).float()
    return model.to(device).eval(), config, numbers


def _last_checkpoints(run: RunDirectory, last: int, count: int) -> list[int]:
    numbers = [number for number in list_checkpoints(run) if number <= last]
    if len(numbers) < count:
        raise UserError(
            f"holds {len(numbers)} checkpoints up to {last}, not {count}",
            where=run.checkpoints,
            remedy=f"average {len(numbers)}, or train with --set training.keep_checkpoints={count}",
        )
    return numbers[-count:]


def _load_parameters(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = _load_tensors(path / MODEL, "cpu")
    if tensors.keys() != expected.keys() or any(
        tensors[name].shape != parameter.shape for name, parameter in expected.items()
    ):
        raise UserError(
            "does not hold the parameters that its config describes", where=path / MODEL
        )
    return tensors
