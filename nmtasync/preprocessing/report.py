"""What preprocessing has read, dropped and written: for people, for JSON and for the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nmtasync
from nmtasync.config.schema import DataConfig
from nmtasync.data.vocabulary import SENTENCEPIECE_VERSION, VocabularyPair
from nmtasync.preprocessing.dropped import Dropped
from nmtasync.preprocessing.staging import StagedCorpus
from nmtasync.run_directory import MANIFEST_FORMAT, sha256, write_json

LOST_SHARE = 0.01
"""The user is told which characters are lost if at least this share of references has some."""


@dataclass(frozen=True)
class CorpusReport:
    """One corpus, before and after cleaning.

    Attributes:
        num_read: Pairs that were read.
        num_kept: Pairs that were written.
        dropped: The rest, by reason.
        source_words: Words between spaces on the source side of the pairs kept.
        target_words: The same of the target side.
        source_pieces: Pieces of the source side, EOS not counted.
        target_pieces: The same of the target side.
        longest: Pieces of the longest side of any pair.
    """

    num_read: int
    num_kept: int
    dropped: Sequence[Dropped]
    source_words: int
    target_words: int
    source_pieces: int
    target_pieces: int
    longest: int


@dataclass(frozen=True)
class LostCharacters:
    """Characters of the references that the vocabulary can't produce.

    Attributes:
        num_references: How many were looked through.
        num_affected: Those with such a character.
        examples: The most frequent of these characters.
    """

    num_references: int
    num_affected: int
    examples: str


@dataclass(frozen=True)
class PreprocessReport:
    """What the stage did.

    Attributes:
        train: The training corpus.
        valid: The validation corpus.
        overlap: Validation pairs that are also in the training files.
        config: The options.
        vocabularies: What was learned, or taken from another run.
        lost_characters: Those that the target vocabulary can't give back.
        missing_spaces: As `warn_of_missing_spaces` says it of the validation references.
        seconds: How long it took.
        seconds_by_step: How long reading, duplicates, the vocabulary and binarising took.
    """

    train: CorpusReport
    valid: CorpusReport
    overlap: int
    config: DataConfig
    vocabularies: VocabularyPair
    lost_characters: LostCharacters
    missing_spaces: str | None
    seconds: float
    seconds_by_step: Mapping[str, float]

    @property
    def notes(self) -> list[str]:
        """What deserves the user's attention, in sentences."""
        notes = []
        for dropped in self.valid.dropped:
            notes.append(
                f"{dropped.num_pairs:,} validation pairs were dropped ({dropped.reason}), the "
                f"first at {dropped.example}."
            )
        if self.valid.longest > self.config.max_length:
            notes.append(
                f"The longest validation sentence has {self.valid.longest:,} pieces, more than "
                f"any training sentence may have ({self.config.max_length:,}); it was kept."
            )
        if self.overlap:
            what = (
                "they were removed from training"
                if self.config.drop_protected
                else "scores on them will be too good"
            )
            notes.append(
                f"{self.overlap:,} validation pairs are in the training files too: {what}."
            )
        if self.train.num_kept < self.train.num_read / 2:
            notes.append("More than half of the training pairs were dropped; do the sides match?")
        lost = self.lost_characters
        if lost.num_affected >= LOST_SHARE * lost.num_references:
            notes.append(
                f"{lost.num_affected / lost.num_references:.1%} of the validation references have "
                f"characters that the vocabulary can't give back, so no translation will have "
                f"them: {' '.join(lost.examples)}. --normalization identity rewrites none."
            )
        if self.missing_spaces:
            notes.append(f"The target side {self.missing_spaces}, here or in training.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """The whole report, for `--json`."""
        return {
            "train": dataclasses.asdict(self.train),
            "valid": dataclasses.asdict(self.valid),
            "overlap": self.overlap,
            "vocabulary": self.vocabulary,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "seconds_by_step": {k: round(v, 3) for k, v in self.seconds_by_step.items()},
        }

    @property
    def vocabulary(self) -> dict[str, Any]:
        """The vocabularies, for JSON."""
        lender = self.config.vocab_from
        return {
            "digest": self.vocabularies.digest(),
            "from": lender and str(Path(lender).absolute()),
            "joint": self.vocabularies.joint,
            "source_size": self.vocabularies.source.size,
            "target_size": self.vocabularies.target.size,
        }


def write_manifest(
    directory: Path, corpora: Mapping[str, StagedCorpus], report: PreprocessReport
) -> None:
    """Write manifest.json: what was read and made, with hashes; equal inputs give an equal one.

    Args:
        directory: Holds what was made.
        corpora: What was read for "train" and "valid".
        report: The options and figures.
    """
    config = report.config
    languages = {"source": config.source_language, "target": config.target_language}
    inputs = [
        {
            "corpus": name,
            "name": corpus.name_of(file.corpus),
            "weight": corpus.paths[file.corpus].weight,
            "side": file.side,
            "language": languages.get(file.side),
            "path": file.path,
            "sha256": file.sha256,
            "lines": file.lines,
        }
        for name, corpus in corpora.items()
        for file in corpus.files
    ]
    made = sorted(path for name in ("data", "vocab") for path in (directory / name).rglob("*.*"))
    write_json(
        directory / "manifest.json",
        {
            "format": MANIFEST_FORMAT,
            "nmtasync": nmtasync.__version__,
            "sentencepiece": SENTENCEPIECE_VERSION,
            "options": dataclasses.asdict(config),
            "inputs": inputs,
            "vocabulary": report.vocabulary,
            "train": dataclasses.asdict(report.train),
            "valid": dataclasses.asdict(report.valid),
            "outputs": {path.relative_to(directory).as_posix(): sha256(path) for path in made},
        },
    )
