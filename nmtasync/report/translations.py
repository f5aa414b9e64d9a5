"""Samples of translations of the same test set by several runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmtasync.config.languages import tokens_of
from nmtasync.data.corpus import read_lines
from nmtasync.errors import UserError
from nmtasync.evaluation.metrics import score_sentences
from nmtasync.report.test_results import TestResult
from nmtasync.report.words import MAX_CHARACTERS, Piece, mark
from nmtasync.untrusted import MAX_DOCUMENT_BYTES, regular_size


@dataclass(frozen=True)
class Translation:
    """What a run makes of a sentence.

    Attributes:
        run: Its name.
        chrf: chrF2 of the sentence, from 0 to 100; None where the reference is not known.
        pieces: The translation, cut where its marks change.
    """

    run: str
    chrf: float | None
    pieces: list[Piece]


@dataclass(frozen=True)
class Sentence:
    """A sentence of a test set.

    Attributes:
        line: Its number, from 1 on.
        source: The text, if it is known.
        reference: Its translation, if it is known.
        translations: Of the runs, in their order.
    """

    line: int
    source: str | None
    reference: str | None
    translations: list[Translation]


@dataclass(frozen=True)
class Samples:
    """Sentences of a test set, evenly spread over it.

    Attributes:
        name: Of the test set.
        num_sentences: How many it has.
        sentences: The samples.
    """

    name: str
    num_sentences: int
    sentences: list[Sentence]


def sample(results: Sequence[tuple[str, TestResult]], most: int) -> tuple[list[Samples], list[str]]:
    """Take samples of each test set that runs have translated.

    Args:
        results: Each with the name of its run.
        most: How many sentences of a test set.

    Returns:
        The samples, and what could not be read.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, TestResult]]] = {}
    for run, result in results:
        groups.setdefault(result.of, []).append((run, result))
    samples: list[Samples] = []
    notes: list[str] = []
    for members in groups.values():
        read = [(run, result, _read(result.hypotheses, notes)) for run, result in members]
        there = [(run, lines) for run, _, lines in read if lines]
        if there and most:
            samples.append(_sample(members[0][1], there, most, notes))
    return samples, notes


def _read(path: Path, notes: list[str]) -> list[str] | None:
    try:
        size = regular_size(path)
        if size > MAX_DOCUMENT_BYTES:
            notes.append(f"{path}: is too long to be shown: {size:,} bytes")
            return None
        return read_lines(path)
    except (OSError, ValueError) as error:
        notes.append(f"{path}: can't be read: {error}")
    except UserError as error:
        notes.append(str(error))
    return None


def _sample(
    result: TestResult, runs: list[tuple[str, list[str]]], most: int, notes: list[str]
) -> Samples:
    num = min(len(lines) for _, lines in runs)
    source, reference = result.source.read(), result.reference.read()
    for side, file, lines in (
        ("source", result.source, source),
        ("reference", result.reference, reference),
    ):
        if lines is None or len(lines) < num:
            notes.append(
                f"the {side} of {result.name} is not shown: {file.path} is not there any more, "
                "or has changed"
            )
    characters = _has_no_spaces(result.target_language)
    places = sorted({num * index // most for index in range(most)})
    return Samples(
        result.name,
        num,
        [
            _sentence(
                place,
                _line(source, place),
                _line(reference, place),
                [(run, lines[place]) for run, lines in runs],
                characters=characters,
            )
            for place in places
        ],
    )


def _has_no_spaces(language: str | None) -> bool:
    try:
        return tokens_of(language) != "words"
    except UserError:  # the file names none that there is
        return False


def _line(lines: list[str] | None, place: int) -> str | None:
    return None if lines is None or place >= len(lines) else lines[place]


def _sentence(
    place: int,
    source: str | None,
    reference: str | None,
    hypotheses: list[tuple[str, str]],
    *,
    characters: bool,
) -> Sentence:
    marked = mark([text for _, text in hypotheses], reference, characters=characters)
    scores: list[float | None] = [None] * len(hypotheses)
    if reference is not None:
        same = [reference] * len(hypotheses)
        scores[:] = score_sentences([text for _, text in hypotheses], [same])
    translations = [
        Translation(run, chrf, pieces)
        for (run, _), chrf, pieces in zip(hypotheses, scores, marked, strict=True)
    ]
    return Sentence(place + 1, _cut(source), _cut(reference), translations)


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:MAX_CHARACTERS]
