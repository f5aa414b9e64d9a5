"""Checkpoints read: their state, their vectors, and the trained model that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nmtasync.checkpoints.checksums import MODEL, STATE, TRAINING, check_file, damage, read_sealed
from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import list_checkpoints, pointed
from nmtasync.config.load import Settings
from nmtasync.config.option import OptionField
from nmtasync.config.schema import OPTIONS, Config, get
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.run_directory import RunDirectory


def read_state(run: RunDirectory, updates: int, vocabulary_digest: str) -> TrainingState:
    """Read the state of a checkpoint and see that it belongs to RUN.

    Raises:
        UserError: It is damaged, of another format, or of another vocabulary.
    """
    path = run.checkpoints / str(updates)
    content = read_sealed(path)
    try:
        state = TrainingState.from_json(content, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"is damaged: {error!r}", where=path / STATE) from None
    if state.vocabulary != vocabulary_digest:
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
    check_file(run.checkpoints / str(updates), TRAINING)
    return _load_tensors(run.checkpoints / str(updates) / TRAINING)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't be read: {error}", where=path) from None


def refuse_other_architecture(
    settings: Settings, trained: Config, place: Path, remedy: str = "leave it out"
) -> None:
    """Refuse options of another network than the one that a checkpoint holds.

    Args:
        settings: Values by full name; options that are not there are not looked at.
        trained: What the checkpoint was trained with.
        place: The checkpoint.
        remedy: What the user can do besides setting the option to its value there.

    Raises:
        UserError: There is one.
    """
    for name, field in OPTIONS.items():
        if name not in settings or not _shapes_parameters(field):
            continue
        now, then = settings[name], get(trained, name)
        if now != then:
            raise UserError(
                f"is {now!r}, but {place} was trained with {then!r}",
                where=name,
                remedy=f"set it to that, or {remedy}",
            )


def _shapes_parameters(field: OptionField) -> bool:
    return field.section == "model" and field.key != "preset" and "dropout" not in field.key


def find_checkpoint(run: RunDirectory, which: str) -> int:
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
    numbers = _last_checkpoints(run, find_checkpoint(run, which), average)
    for number in numbers:
        _refuse_damaged(run, number)
    states = [read_state(run, number, vocabularies.digest()) for number in numbers]
    config = states[-1].config
    model = build_model(config.model, vocabularies.source.size, vocabularies.target.size)
    parameters = dict(model.named_parameters())
    sums: dict[str, Tensor] = {}
    for number in numbers:
        for name, tensor in _load_parameters(run.checkpoints / str(number), parameters).items():
            sums[name] = sums[name].add_(tensor) if name in sums else tensor.double()
    for name, parameter in parameters.items():
        parameter.data = (sums[name] / len(numbers)).float()
    return model.to(device).eval(), config, numbers


def _refuse_damaged(run: RunDirectory, updates: int) -> None:
    """Refuse a model that is not as it was written, and offer others."""
    fault = damage(run.checkpoints / str(updates), MODEL)
    if fault is None:
        return
    whole = [n for n in list_checkpoints(run) if damage(run.checkpoints / str(n), MODEL) is None]
    remedy = "bring it back from a copy"
    if whole:
        remedy += f", or take a whole one: --checkpoint {max(whole)}"
    raise UserError(fault.message, where=fault.where, remedy=remedy)


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
    tensors = _load_tensors(path / MODEL)
    if tensors.keys() != expected.keys() or any(
        tensors[name].shape != parameter.shape for name, parameter in expected.items()
    ):
        raise UserError(
            "does not hold the parameters that its config describes", where=path / MODEL
        )
    return tensors
