"""Test sets: read, translate, score, and keep the result in RUN/evaluation."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nmtasync
from nmtasync.config.languages import tokens_of
from nmtasync.data.cleaning import clean_line
from nmtasync.data.corpus import TextReader, read_together
from nmtasync.errors import UserError
from nmtasync.evaluation.metrics import Score, score
from nmtasync.evaluation.trained_model import TrainedModel
from nmtasync.evaluation.translate import Progress, Translator
from nmtasync.run_directory import (
    RunDirectory,
    explain_write_errors,
    refuse_unwritable,
    write_atomically,
    write_json,
)

_MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class TestSet:
    """Sentences and their reference translations.

    Attributes:
        name: What its results are called.
        files: Path and SHA-256 of "source" and "reference".
        sources: The sentences.
        references: One translation of each.
        more_references: Other translations of all, if there are any.
        more_files: Path and SHA-256 of each of those.
    """

    __test__ = False  # pytest takes the name for a class of tests

    name: str
    files: dict[str, dict[str, str]]
    sources: list[str]
    references: list[str]
    more_references: list[list[str]] = field(default_factory=list)
    more_files: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a test set.

    Attributes:
        test_set: The set.
        hypotheses: The translations.
        scores: BLEU, chrF and TER.
        seconds: What translating took.
        counts: Of its lines, those that `Translator.counts` counts.
    """

    test_set: TestSet
    hypotheses: list[str]
    scores: dict[str, Score]
    seconds: float
    counts: dict[str, int]


def read_test_set(name: str, source: Path, reference: Path, *more_references: Path) -> TestSet:
    """Read the two sides of a test set, plain or gzipped.

    Args:
        name: What its results are called.
        source: The text.
        reference: Its translation.
        more_references: Other translations.

    Raises:
        UserError: The name is no file name, a file can't be read, the sides differ in length or
            are empty.
    """
    check_name(name)
    readers = [TextReader(path) for path in (source, reference, *more_references)]
    together = [tuple(map(clean_line, lines)) for lines in read_together(*readers)]
    if not together:
        raise UserError("holds no sentence", where=source, remedy="give the text of the test set")
    sources, references, *more = map(list, zip(*together, strict=True))
    files = [{"path": str(reader.path), "sha256": reader.sha256} for reader in readers]
    return TestSet(
        name=name,
        files={"source": files[0], "reference": files[1]},
        sources=sources,
        references=references,
        more_references=more,
        more_files=files[2:],
    )


def check_name(name: str) -> None:
    """Refuse a name under which results can't be kept.

    Raises:
        UserError: It is no plain file name.
    """
    too_long = len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES
    if not name or name.startswith(".") or too_long or not name.isprintable() or "/" in name:
        raise UserError(
            "the name of a test set must be a plain file name",
            where=f"--test {name!r}",
            remedy="choose one like newstest2016",
        )


def evaluate(
    translator: Translator,
    test_set: TestSet,
    target_language: str | None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Translate a test set and score the translations.

    Args:
        translator: What is evaluated.
        test_set: What it is evaluated on.
        target_language: Its code, as `metrics.score` takes it.
        on_progress: Is called after each batch.

    Raises:
        UserError: The code is none.
    """
    tokens_of(target_language)  # refused now rather than after the translation
    translator.counts.clear()
    start = time.monotonic()
    hypotheses = translator.translate(test_set.sources, on_progress)
    seconds = time.monotonic() - start
    scores = score(hypotheses, test_set.references, target_language, test_set.more_references)
    return Evaluation(test_set, hypotheses, scores, seconds, dict(translator.counts))


def describe(
    evaluation: Evaluation, trained: TrainedModel, target_language: str | None
) -> dict[str, Any]:
    """Build the content of NAME.json.

    Args:
        evaluation: The result.
        trained: What was evaluated.
        target_language: As `evaluate` took it.
    """
    return {
        "name": evaluation.test_set.name,
        **evaluation.scores,
        "source_language": trained.config.data.source_language,
        "target_language": target_language,
        "checkpoint": trained.checkpoints[-1],
        "averaged_checkpoints": trained.checkpoints,
        "ensemble": [asdict(m) for m in trained.members] if len(trained.members) > 1 else [],
        "sentences": len(evaluation.hypotheses),
        "cut_sources": evaluation.counts.get("cut_sources", 0),
        "ended_by_length": evaluation.counts.get("ended_by_length", 0),
        "seconds": round(evaluation.seconds, 3),
        "decoding": asdict(trained.translator.config),
        **evaluation.test_set.files,
        **({"more_references": more} if (more := evaluation.test_set.more_files) else {}),
        "nmtasync": nmtasync.__version__,
    }


def refuse_unwritable_results(run: RunDirectory, name: str) -> None:
    """Find out whether `write` will be able to, before anything is translated.

    Args:
        run: Where.
        name: Of the test set.

    Raises:
        UserError: RUN/evaluation can't be written, or something else has a name that is needed.
        NmtasyncError: The disk is full or broken.
    """
    refuse_unwritable(run.evaluation)
    for path in _results(run, name):
        if path.is_dir():
            raise UserError("is in the way of a file", where=path, remedy="move it away")


def _results(run: RunDirectory, name: str) -> tuple[Path, Path]:
    return run.evaluation / f"{name}.hyp", run.evaluation / f"{name}.json"


def write(run: RunDirectory, evaluation: Evaluation, description: dict[str, Any]) -> None:
    """Write NAME.hyp and then NAME.json, so that scores never stand beside older translations.

    Raises:
        UserError: RUN/evaluation can't be written.
    """
    hypotheses, scores = _results(run, evaluation.test_set.name)
    with explain_write_errors(run.evaluation):
        run.evaluation.mkdir(exist_ok=True)
        scores.unlink(missing_ok=True)
        text = "".join(line + "\n" for line in evaluation.hypotheses)
        write_atomically(hypotheses, text)
        write_json(scores, description)
