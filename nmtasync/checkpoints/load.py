"""Checkpoints read: their state, their vectors, and the trained model that they hold."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nmtasync.checkpoints.checksums import MODEL, STATE, TRAINING, check_file, damage, read_sealed
from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import list_averages, list_checkpoints, pointed
from nmtasync.config.load import Settings
from nmtasync.config.option import OptionField
from nmtasync.config.schema import OPTIONS, Config, get
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.build import ModelSpec
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import number_of

Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by their names."""

MAX_HEADER_BYTES = 16 << 20
"""The longest header of a file of tensors; one of a thousand tensors has 100 KiB."""


def read_state(run: RunDirectory, name: int | str, vocabulary_digest: str) -> TrainingState:
    """Read the state of a checkpoint, or a mean of some, and see that it belongs to RUN.

    Raises:
        UserError: It is damaged, of another format, or of another vocabulary.
    """
    path = run.checkpoints / str(name)
    content, file = read_sealed(path), path / STATE
    try:
        state = TrainingState.from_json(content, path)
        if isinstance(name, int) and state.updates != name:
            raise ValueError(f"it is of update {state.updates}")
        if isinstance(name, int) == bool(state.averaged):
            raise ValueError("a mean of checkpoints has a name, others have a number")
    except KeyError as error:
        raise damaged(file, ValueError(f"{error} is missing")) from None
    except ValueError as error:
        raise damaged(file, error) from None
    if state.vocabulary != vocabulary_digest:
        raise UserError(
            "was trained with another vocabulary than the one in RUN/vocab",
            where=path,
            remedy="use the directory that it was trained in, or train anew with --no-resume",
        )
    return state


def damaged(path: Path, error: Exception) -> UserError:
    """Build the error that says what is wrong with a file of a checkpoint."""
    return UserError(
        f"is damaged: {error}",
        where=path,
        remedy="copy it again, or use another checkpoint",
    )


def read_vectors(run: RunDirectory, updates: int, size: int) -> dict[str, Tensor]:
    """Read the vectors [P] to go on from.

    Args:
        run: The directory.
        updates: Which checkpoint.
        size: P.

    Raises:
        UserError: They are missing or damaged, or of another size.
    """
    check_file(run.checkpoints / str(updates), TRAINING)
    path = run.checkpoints / str(updates) / TRAINING

    def refuse_others(shapes: Shapes) -> None:
        wrong = next((name for name, shape in shapes.items() if shape != (size,)), None)
        if wrong is not None or "parameters" not in shapes:
            raise UserError(
                f"does not hold vectors of {size:,} numbers, as its config describes",
                where=path,
                remedy="use the checkpoint as it was written",
            )

    return _load_tensors(path, refuse_others)


def _load_tensors(
    path: Path, refuse_others: Callable[[Shapes], None], names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Load float32 tensors, after their names and shapes have been seen to be the right ones.

    Args:
        path: The file.
        refuse_others: Raises an error if names and shapes are not right.
        names: Which to load; None for all.
    """
    try:
        with path.open("rb") as start:
            header_bytes = int.from_bytes(start.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {header_bytes:,} bytes")
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if any(each.get_dtype() != "F32" for each in slices.values()):
                raise ValueError("it does not hold float32")
            refuse_others({name: tuple(each.get_shape()) for name, each in slices.items()})
            return {name: file.get_tensor(name) for name in (slices if names is None else names)}
    except (OSError, SafetensorError, ValueError) as error:
        remedy = "copy it again, or use another checkpoint"
        raise UserError(f"can't be read: {error}", where=path, remedy=remedy) from None


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


def find_checkpoint(run: RunDirectory, which: str) -> int | str:
    """Find a checkpoint by its number or a pointer, "best" or "latest", or a mean by its name.

    Raises:
        UserError: There is no such checkpoint.
    """
    numbers, averages = list_checkpoints(run), list_averages(run)
    if not numbers and not averages:
        raise UserError(
            "holds no checkpoint", where=run.root, remedy=f"run `nmtasync train {run.root}`"
        )
    if which in averages:
        return which
    number = number_of(which)
    if which in ("best", "latest"):
        # validation of the first checkpoint may not have ended yet
        number = pointed(run, which) or pointed(run, "latest")
    if number is None or number not in numbers:
        have = ", ".join(map(str, [*numbers, *averages]))
        raise UserError(f"holds no checkpoint {which}; there are {have}", where=run.root)
    return number


def load_model(
    run: RunDirectory, which: str = "best", device: str = "cpu", average: int = 1
) -> tuple[SequenceToSequence, Config, list[int]]:
    """Load a trained model, ready for translation.

    Args:
        run: Where it was trained.
        which: "best", "latest", the number of a checkpoint, or the name of a mean of some.
        device: Where to put it.
        average: How many checkpoints to average, that one and the newest before it.

    Returns:
        The model in evaluation mode, the config it was trained with, and the updates of the
        checkpoints that it was made of, the oldest first.

    Raises:
        UserError: There are no such checkpoints, or they do not belong to RUN.
    """
    run.read_manifest()
    found = find_checkpoint(run, which)
    if isinstance(found, int):
        names: list[int | str] = [*_last_checkpoints(run, found, average)]
    elif average == 1:
        names = [found]
    else:
        raise UserError(
            f"is the mean of some already, so there are no {average} to average",
            where=run.checkpoints / found,
            remedy="leave out --average, or name a checkpoint by its number",
        )
    model, states = load_mean(run, names)
    numbers = [number for state in states for number in state.averaged or (state.updates,)]
    return model.to(device).eval(), states[-1].config, numbers


def load_mean(
    run: RunDirectory, names: Sequence[int | str]
) -> tuple[SequenceToSequence, list[TrainingState]]:
    """Load the mean of checkpoints, summed in float64.

    Args:
        run: Where they are.
        names: One checkpoint at least, the newest last.

    Returns:
        The network that the newest describes, with the mean of their parameters, and their states.

    Raises:
        UserError: One is damaged, of another vocabulary than RUN, or of another network.
    """
    vocabularies = VocabularyPair.load(run.vocab)
    for name in names:
        _refuse_damaged(run, name)
    states = [read_state(run, name, vocabularies.digest()) for name in names]
    config = states[-1].config
    spec = ModelSpec(config.model, vocabularies.source.size, vocabularies.target.size)
    files = [run.checkpoints / str(name) / MODEL for name in names]
    _load_tensors(files[-1], functools.partial(_refuse_fewer, spec, files[-1]), names=())
    model = spec.build()
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    sums: dict[str, Tensor] = {}
    for file in files:
        tensors = _load_tensors(file, functools.partial(_refuse_others, expected, file))
        for name, tensor in tensors.items():
            sums[name] = sums[name].add_(tensor) if name in sums else tensor.double()
    for name, parameter in model.named_parameters():
        parameter.data = (sums[name] / len(files)).float()
    return model, states


def _refuse_damaged(run: RunDirectory, name: int | str) -> None:
    """Refuse a model that is not as it was written, and offer others."""
    fault = damage(run.checkpoints / str(name), MODEL)
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


def _refuse_fewer(spec: ModelSpec, path: Path, shapes: Shapes) -> None:
    """Refuse a file that holds too little for a network, before that is built."""
    if not spec.may_have(len(shapes), sum(map(math.prod, shapes.values()))):
        raise _other_parameters(path)


def _refuse_others(expected: Shapes, path: Path, shapes: Shapes) -> None:
    if shapes != expected:
        raise _other_parameters(path)


def _other_parameters(path: Path) -> UserError:
    return UserError(
        "does not hold the parameters that its config describes",
        where=path,
        remedy="use the checkpoint as it was written",
    )
