"""What `nmtasync evaluate` has left in RUN/evaluation: scores and translations of test sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtasync.data.corpus import read_lines
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, sha256
from nmtasync.untrusted import MAX_DOCUMENT_BYTES, parse_json, read_document, regular_size, typed

MAX_TEST_SETS = 100
METRICS = ("bleu", "chrf", "ter")


@dataclass(frozen=True)
class TextFile:
    """A side of a test set, as its scores name it.

    Attributes:
        path: Where it was.
        sha256: Of what it held.
    """

    path: str
    sha256: str

    def read(self) -> list[str] | None:
        """Read its lines; None if it is not there any more, or another one."""
        path = Path(self.path)
        try:
            if regular_size(path) > MAX_DOCUMENT_BYTES or sha256(path) != self.sha256:
                return None
            return read_lines(path)
        except (OSError, ValueError, UserError):
            return None


@dataclass(frozen=True)
class MetricResult:
    """What one metric says.

    Attributes:
        score: BLEU and chrF from 0 to 100; TER in percent, of which less is better.
        signature: How it was made.
    """

    score: float
    signature: str


@dataclass(frozen=True)
class Rival:
    """Other translations that a run was compared with.

    Attributes:
        name: Whose.
        p_values: By metric: how probable so large a difference would be if there were none.
    """

    name: str
    p_values: dict[str, float]


@dataclass(frozen=True)
class TestResult:
    """Scores of a run on a test set.

    Attributes:
        name: Of the test set.
        metrics: "bleu", "chrf" and "ter", as far as they are there.
        checkpoint: Which was evaluated, by its updates.
        num_averaged: How many checkpoints the model is the mean of.
        beam_size: Of the search.
        target_language: Its code, if it is known.
        source: The text.
        reference: Its translation.
        hypotheses: The file with the run's translations.
        rivals: What it was compared with.
    """

    __test__ = False  # pytest takes the name for a class of tests

    name: str
    metrics: dict[str, MetricResult]
    checkpoint: int
    num_averaged: int
    beam_size: int
    target_language: str | None
    source: TextFile
    reference: TextFile
    hypotheses: Path
    rivals: list[Rival]

    @property
    def of(self) -> tuple[str, str, str]:
        """What must be the same for two results to be compared: name and content."""
        return self.name, self.source.sha256, self.reference.sha256


def read_results(run: RunDirectory) -> tuple[list[TestResult], list[str]]:
    """Read the scores of all test sets, by their names.

    Returns:
        The scores, and what could not be read.
    """
    results: list[TestResult] = []
    notes: list[str] = []
    try:
        files = sorted(run.evaluation.glob("*.json"))[:MAX_TEST_SETS]
    except OSError as error:
        return [], [f"{run.evaluation}: can't be read: {error}"]
    for path in files:
        try:
            results.append(_read(path))
        except KeyError as error:
            notes.append(f"{path}: is damaged: {error} is missing")
        except (OSError, ValueError) as error:
            notes.append(f"{path}: can't be read: {error}")
    return results, notes


def _read(path: Path) -> TestResult:
    content = typed(dict[str, Any], parse_json(read_document(path)))
    metrics = {
        name: MetricResult(
            typed(float, content[name]["score"], f"{name}.score"),
            typed(str, content[name]["signature"], f"{name}.signature"),
        )
        for name in METRICS
        if isinstance(content.get(name), dict)
    }
    decoding = typed(dict[str, Any], content["decoding"], "decoding")
    return TestResult(
        name=typed(str, content["name"], "name"),
        metrics=metrics,
        checkpoint=typed(int, content["checkpoint"], "checkpoint"),
        num_averaged=len(typed(list[int], content["averaged_checkpoints"], "averaged_checkpoints")),
        beam_size=typed(int, decoding["beam_size"], "beam_size"),
        target_language=_language(content.get("target_language")),
        source=_file(content, "source"),
        reference=_file(content, "reference"),
        hypotheses=path.with_suffix(".hyp"),
        rivals=_rivals(content),
    )


def _rivals(content: dict[str, Any]) -> list[Rival]:
    comparison = typed(dict[str, Any], content.get("significance", {}), "significance")
    systems = typed(list[dict[str, Any]], comparison.get("systems", []), "significance.systems")
    return [
        Rival(
            typed(str, system["name"], "name"),
            {
                metric: typed(float, system[metric]["p_value"], f"{metric}.p_value")
                for metric in METRICS
                if isinstance(system.get(metric), dict)
            },
        )
        for system in systems[1:]
    ]


def _language(code: Any) -> str | None:
    return None if code is None else typed(str, code, "target_language")


def _file(content: dict[str, Any], side: str) -> TextFile:
    file = typed(dict[str, Any], content[side], side)
    return TextFile(
        typed(str, file["path"], f"{side}.path"), typed(str, file["sha256"], f"{side}.sha256")
    )
