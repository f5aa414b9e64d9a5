"""A trained model with what it needs to translate, from the checkpoints of one run or several."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nmtasync.checkpoints.load import load_model
from nmtasync.config.schema import Config, DecodingConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.precision import choose_precision, reduce_precision
from nmtasync.errors import UserError
from nmtasync.evaluation.translate import Translator
from nmtasync.machine.device import resolve_device
from nmtasync.machine.precision import PrecisionChoice
from nmtasync.run_directory import RunDirectory

_MEMBER = re.compile(r"(?P<run>.+?)(?::(?P<checkpoint>[^:@/]+))?(?:@(?P<weight>[^:@/]+))?")


@dataclass(frozen=True)
class Member:
    """A model that predicts together with others.

    Attributes:
        given: How the user has named it.
        run: The directory of its experiment.
        checkpoint: As of `load_trained`.
        weight: Its weight, beside that of 1 of the first model.
    """

    given: str
    run: Path
    checkpoint: str
    weight: float


@dataclass(frozen=True)
class MemberLoaded:
    """What is told of a member that has been loaded.

    Attributes:
        run: The directory of its experiment.
        checkpoints: The updates of the checkpoints that it is the average of, the oldest first.
        weight: Its part of the mean.
    """

    run: str
    checkpoints: list[int]
    weight: float


@dataclass(frozen=True)
class TrainedEnsemble:
    """A model, or several, with their vocabularies.

    Attributes:
        ensemble: What predicts.
        vocabularies: Of all its models.
        device: Where they lie.
        config: What the first was trained with.
        members: All models, the first first.
        precision: In which they compute, and why.
    """

    ensemble: Ensemble
    vocabularies: VocabularyPair
    device: torch.device
    config: Config
    members: list[MemberLoaded]
    precision: PrecisionChoice


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to translate.

    Attributes:
        translator: The model with its vocabulary and search.
        config: What it was trained with.
        members: It and, in an ensemble, the others.
        precision: In which they compute, and why.
    """

    translator: Translator
    config: Config
    members: list[MemberLoaded]
    precision: PrecisionChoice

    @property
    def checkpoints(self) -> list[int]:
        """The updates of the checkpoints that the first is the average of, the oldest first."""
        return self.members[0].checkpoints


def parse_member(given: str) -> Member:
    """Read RUN[:CHECKPOINT][@WEIGHT].

    Raises:
        UserError: The weight is no number above 0.
    """
    match = None if Path(given).is_dir() else _MEMBER.fullmatch(given)
    if match is None:
        return Member(given, Path(given), "best", 1.0)
    try:
        weight = float(match["weight"] or 1.0)
    except ValueError:
        weight = math.nan
    if not 0.0 < weight < math.inf:
        raise UserError(
            f"its weight is {match['weight']!r}, but must be a number above 0",
            where=f"--ensemble {given}",
            remedy="write RUN@0.5, or RUN:best@0.5",
        )
    return Member(given, Path(match["run"]), match["checkpoint"] or "best", weight)


def load_ensemble(
    run: Path,
    checkpoint: str,
    average: int,
    device: str,
    others: Sequence[Member] = (),
    precision: str = "fp32",
) -> TrainedEnsemble:
    """Load a model, and others that predict together with it.

    Args:
        run: The directory of the experiment.
        checkpoint: "best", "latest", the updates of a checkpoint, or the name of an average.
        average: How many checkpoints to average: that one and the newest before it.
        device: "auto", or the name of a device.
        others: The other models.
        precision: As of `decoding.precision`.

    Raises:
        UserError: There is no such model or device, or a model has other vocabularies, or the
            device can't compute in that precision.
    """
    directory = RunDirectory(run)
    directory.read_manifest()
    place = resolve_device(device, where="--device")
    vocabularies = VocabularyPair.load(directory.vocab)
    loaded = [load_model(directory, checkpoint, place, average)]
    for other in others:
        there = RunDirectory(other.run)
        there.read_manifest()
        if VocabularyPair.load(there.vocab).digest() != vocabularies.digest():
            raise UserError(
                f"has other vocabularies than {run}, so their predictions have no mean",
                where=f"--ensemble {other.given}",
                remedy=f"take a run that was preprocessed with --vocab-from {run}",
            )
        loaded.append(load_model(there, other.checkpoint, place))
    chosen = choose_precision(precision, loaded[0][0])
    for model, _, _ in loaded:
        reduce_precision(model, chosen.precision)
    runs = [str(run), *(str(other.run) for other in others)]
    ensemble = Ensemble(
        [model for model, _, _ in loaded],
        [1.0, *(other.weight for other in others)],
        [config.training.guided_alignment_layer for _, config, _ in loaded],
    )
    members = [
        MemberLoaded(name, checkpoints, weight)
        for name, (_, _, checkpoints), weight in zip(runs, loaded, ensemble.weights, strict=True)
    ]
    place_of_all, config = torch.device(place), loaded[0][1]
    return TrainedEnsemble(ensemble, vocabularies, place_of_all, config, members, chosen)


def load_trained(
    run: Path,
    checkpoint: str,
    average: int,
    device: str,
    decoding: DecodingConfig,
    on_warning: Callable[[int, str], None] | None = None,
    others: Sequence[Member] = (),
) -> TrainedModel:
    """Load a model with what it needs to translate.

    Args:
        run: As of `load_ensemble`.
        checkpoint: As of `load_ensemble`.
        average: As of `load_ensemble`.
        device: As of `load_ensemble`.
        decoding: How to search.
        on_warning: As of `Translator`.
        others: As of `load_ensemble`.

    Raises:
        UserError: As of `load_ensemble`.
    """
    trained = load_ensemble(run, checkpoint, average, device, others, decoding.precision)
    decoding = dataclasses.replace(decoding, precision=trained.precision.precision)
    parts = trained.ensemble, trained.vocabularies, decoding, trained.device, on_warning
    translator = Translator(*parts)
    return TrainedModel(translator, trained.config, trained.members, trained.precision)
