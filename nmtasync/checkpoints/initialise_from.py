"""Fine-tuning: training starts from the parameters of another run's checkpoint.

Only the parameters come along, those that validation scored; optimizer, clocks and data position
begin anew. The vocabularies may differ: an embedding goes to the piece of the same text.

This is done once, to the model that the server is made of, so no driver knows of it. The checkpoint
that `training.init_from` came to is in RUN/config.toml, and with its hash in every checkpoint.

Shapes: V pieces of a vocabulary, D dimension, K pieces that both vocabularies have.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nmtasync.checkpoints.checksums import MODEL
from nmtasync.checkpoints.load import (
    find_checkpoint,
    load_model,
    read_state,
    refuse_other_architecture,
)
from nmtasync.checkpoints.store import is_average_name
from nmtasync.config.load import Settings
from nmtasync.config.schema import OPTIONS, get
from nmtasync.data.vocabulary import Vocabulary, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.embeddings import VOCABULARY_OF
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.run_directory import RunDirectory, sha256

_OPTION = "training.init_from"


class InitialModel:
    """A checkpoint of another run, from which a run starts.

    Attributes:
        run: The other run.
        path: The checkpoint's directory.
        config: What it was trained with.

    Args:
        given: What the user named: a run, whose best checkpoint it is then, a checkpoint's
            directory or pointer, or its model.safetensors.
        here: The run that starts.

    Raises:
        UserError: There is no such checkpoint, or it is of the run that starts.
    """

    def __init__(self, given: Path, here: RunDirectory) -> None:
        self._given, self._here = given.absolute(), here
        self.run, which = _locate(self._given)
        if self.run.root.resolve() == here.root.resolve():
            raise UserError(
                "is the run itself", where=_where(given), remedy="fine-tune in another directory"
            )
        self._name = find_checkpoint(self.run, which)
        self.path = self.run.checkpoints / str(self._name)
        self.vocabularies = VocabularyPair.load(self.run.vocab)
        self.config = read_state(self.run, self._name, self.vocabularies.digest()).config

    def model_settings(self, settings: Settings, vocabularies: VocabularyPair) -> Settings:
        """Take the architecture from the checkpoint.

        Args:
            settings: What is set for the run that starts.
            vocabularies: Of that run.

        Returns:
            All options of the section [model], to be set before `settings` are.

        Raises:
            UserError: The settings or the vocabularies ask for another architecture.
        """
        # before they are resolved, which would blame what nobody has set
        refuse_other_architecture(settings, self.config, self.path)
        if self.config.model.tied_embeddings == "all" and not vocabularies.joint:
            raise UserError(
                f"has one embedding matrix for both languages, but {self._here.root} a vocabulary "
                "for each",
                where=self.path,
                remedy=f"preprocess with --vocab-from {self.run.root}",
            )
        return {n: get(self.config, n) for n, f in OPTIONS.items() if f.section == "model"}

    def initialise(self, model: SequenceToSequence, vocabularies: VocabularyPair) -> str:
        """Overwrite the parameters of a model of the same architecture with the checkpoint's.

        Embeddings of pieces that the checkpoint's vocabulary lacks stay as they are.

        Args:
            model: The model.
            vocabularies: Of the run that starts.

        Returns:
            In words, how many embeddings were kept.

        Raises:
            UserError: The checkpoint is damaged, or a vocabulary has nothing in common with its.
        """
        trained, _, _ = load_model(self.run, str(self._name))
        same = vocabularies.digest() == self.vocabularies.digest()
        rows = {} if same else self._common_rows(vocabularies)
        values = dict(trained.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                side = VOCABULARY_OF.get(name)
                if same or side is None:
                    parameter.copy_(values[name])
                else:
                    here, there = rows[side]
                    parameter[here] = values[name][there]
        if same:
            return "all embeddings kept"
        sizes = {"source": vocabularies.source.size, "target": vocabularies.target.size}
        if vocabularies.joint and self.vocabularies.joint:
            return f"embeddings of {_share(rows['target'], sizes['target'])} pieces kept"
        kept = (f"{_share(rows[side], size)} {side}" for side, size in sizes.items())
        return f"embeddings of {' and '.join(kept)} pieces kept"

    def record(self) -> dict[str, str]:
        """What checkpoints of the run that starts keep about its origin, for JSON."""
        return {
            "given": str(self._given),
            "checkpoint": str(self.path),
            "sha256": sha256(self.path / MODEL),
        }

    def _common_rows(self, vocabularies: VocabularyPair) -> dict[str, tuple[Tensor, Tensor]]:
        pairs = {
            "source": (vocabularies.source, self.vocabularies.source),
            "target": (vocabularies.target, self.vocabularies.target),
        }
        for side, (here, there) in pairs.items():
            if not here.learned_pieces() & there.learned_pieces():
                raise UserError(
                    f"the {side} vocabulary has no piece in common with that of {self.path}",
                    where=self._here.vocab,
                    remedy=f"preprocess with --vocab-from {self.run.root}",
                )
        return {side: common_rows(*pair) for side, pair in pairs.items()}


def common_rows(here: Vocabulary, there: Vocabulary) -> tuple[Tensor, Tensor]:
    """Find the pieces that two vocabularies have in common, control and byte pieces too.

    Returns:
        Their ids in `here` and, in the same order, in `there`: [K] each.
    """
    ids = {piece: i for i, piece in enumerate(there.pieces())}
    common = [(i, ids[piece]) for i, piece in enumerate(here.pieces()) if piece in ids]
    rows = torch.tensor(common)
    return rows[:, 0], rows[:, 1]


def recorded_start(record: dict[str, str] | None, given: str | None) -> str | None:
    """Return where a run that has begun started from, so that it is not applied twice.

    Args:
        record: What `InitialModel.record` said then.
        given: What `training.init_from` is now.

    Returns:
        The checkpoint that it started from, or None.

    Raises:
        UserError: `given` names another one.
    """
    known = (record["given"], record["checkpoint"]) if record else (None,)
    if (given and str(Path(given).absolute())) not in known:
        began = f"from {record['checkpoint']}" if record else "from scratch"
        raise UserError(
            f"is {given or 'none'!r}, but this run began {began}",
            where=_OPTION,
            remedy="leave it as it was, or start anew with --no-resume",
        )
    return record["checkpoint"] if record else None


def _locate(given: Path) -> tuple[RunDirectory, str]:
    """Find the run, and which of its checkpoints is meant."""
    path = given.parent if given.name == MODEL else given
    if not path.exists():
        raise UserError(
            "there is no such run or checkpoint",
            where=_where(given),
            remedy="name a run, or one of its checkpoints",
        )
    run, which = RunDirectory(path), "best"
    if path.parent.name == run.checkpoints.name:
        run, which = RunDirectory(path.parent.parent), path.name
    is_name = which.isdecimal() or which in ("best", "latest") or is_average_name(which)
    if not run.manifest.exists() or not is_name:
        raise UserError(
            "is no run and no checkpoint of one",
            where=_where(given),
            remedy="name a run, or one of its checkpoints",
        )
    return run, which


def _share(rows: tuple[Tensor, Tensor], size: int) -> str:
    return f"{len(rows[0]):,} of {size:,}"


def _where(given: Path) -> str:
    return f"{_OPTION} = {given}"
