"""What preprocessing has read, dropped and written: for people, for JSON and for the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nmtasync
from nmtasync.config.schema import DataConfig
from nmtasync.data.staging import Dropped, InputFile
from nmtasync.data.vocabulary import SENTENCEPIECE_VERSION
from nmtasync.run_directory import MANIFEST_FORMAT, sha256, write_json

LOST_SHARE = 0.01
"""The user is told which characters are lost if at least this share of references has some."""

PIECES_WITHOUT_SPACES = 8
"""With at least this many pieces per word a language counts as written without spaces."""


@dataclass(frozen=True)
class CorpusReport:
    """One corpus, before and after cleaning.

    Attributes:
        files: What was read, the files of each corpus together: both sides, and their alignment.
        num_read: Pairs that were read.
        num_kept: Pairs that were written.
        dropped: The rest, by reason.
        source_words: Words between spaces on the source side of the pairs kept.
        target_words: The same of the target side.
        source_pieces: Pieces of the source side, EOS not counted.
        target_pieces: The same of the target side.
        longest: Pieces of the longest side of any pair.
    """

    files: Sequence[tuple[InputFile, ...]]
    num_read: int
    num_kept: int
    dropped: Sequence[Dropped]
    source_words: int
    target_words: int
    source_pieces: int
    target_pieces: int
    longest: int

    @property
    def counts(self) -> dict[str, Any]:
        """All of it but the files, for JSON."""
        fields = dataclasses.asdict(self)
        del fields["files"]
        return fields


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
        vocabulary_sizes: Pieces of the source and the target vocabulary.
        joint: Whether they are one.
        vocabulary_digest: SHA-256 of the vocabulary.
        vocabulary_from: The run that it was taken from; None if it was learned.
        max_length: The most pieces of a side of a training pair.
        target_language: Its code, if it is known.
        lost_characters: Those that the target vocabulary can't give back.
        seconds: How long it took.
    """

    train: CorpusReport
    valid: CorpusReport
    overlap: int
    vocabulary_sizes: tuple[int, int]
    joint: bool
    vocabulary_digest: str
    vocabulary_from: str | None
    max_length: int
    target_language: str | None
    lost_characters: LostCharacters
    seconds: float

    @property
    def notes(self) -> list[str]:
        """What deserves the user's attention, in sentences."""
        notes = []
        for dropped in self.valid.dropped:
            notes.append(
                f"{dropped.num_pairs:,} validation pairs were dropped ({dropped.reason}), the "
                f"first at {dropped.example}."
            )
        if self.valid.longest > self.max_length:
            notes.append(
                f"The longest validation sentence has {self.valid.longest:,} pieces, more than "
                f"any training sentence may have ({self.max_length:,}); it was kept."
            )
        if self.overlap:
            notes.append(
                f"{self.overlap:,} validation pairs are in the training files too: scores on them "
                "will be too good."
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
        if self.target_language is None and self.train.target_words * PIECES_WITHOUT_SPACES <= (
            self.train.target_pieces
        ):
            notes.append(
                "The target side has hardly any spaces. BLEU must know its language: add "
                "--target-language zh, ja, th or the like, here or in training."
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """The whole report, for `--json`."""
        return {
            "train": self.train.counts,
            "valid": self.valid.counts,
            "overlap": self.overlap,
            "vocabulary": self.vocabulary,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }

    @property
    def vocabulary(self) -> dict[str, Any]:
        """The vocabularies, for JSON."""
        source_size, target_size = self.vocabulary_sizes
        return {
            "digest": self.vocabulary_digest,
            "from": self.vocabulary_from and str(Path(self.vocabulary_from).absolute()),
            "joint": self.joint,
            "source_size": source_size,
            "target_size": target_size,
        }


def write_manifest(directory: Path, config: DataConfig, report: PreprocessReport) -> None:
    """Write manifest.json: what was read and made, with hashes; equal inputs give an equal one.

    Args:
        directory: Holds what was made.
        config: The options.
        report: The figures.
    """
    languages = {"source": config.source_language, "target": config.target_language}
    inputs = [
        {
            "corpus": name,
            "side": side,
            "language": languages.get(side),
            "path": str(file.path.absolute()),
            "sha256": file.sha256,
            "lines": file.num_lines,
        }
        for name, corpus in (("train", report.train), ("valid", report.valid))
        for files in corpus.files
        for side, file in zip(("source", "target", "alignment"), files, strict=False)
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
            "train": report.train.counts,
            "valid": report.valid.counts,
            "outputs": {path.relative_to(directory).as_posix(): sha256(path) for path in made},
        },
    )
