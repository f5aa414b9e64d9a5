"""Whether a model is better than others, or only luckier: sacrebleu's paired tests.

Source: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation" (bootstrap);
    Riezler and Maxwell 2005, "On Some Pitfalls in Automatic Evaluation and Significance Testing for
    MT" (approximate randomization).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from nmtasync.data.corpus import read_lines
from nmtasync.errors import UserError
from nmtasync.evaluation.metrics import build_metrics
from nmtasync.evaluation.test_sets import TestSet
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import parse_json, read_document

TESTS = {"bootstrap": "bs", "randomization": "ar"}
"""What the tests are called, here and by sacrebleu: 1,000 samples, or 10,000 trials."""


@dataclass(frozen=True)
class Rival:
    """Translations of a test set that are not the evaluated model's.

    Attributes:
        name: What they are called.
        hypotheses: The translations.
    """

    name: str
    hypotheses: list[str]


class Compared(TypedDict):
    """One metric's result in a comparison.

    `mean` and `interval` are estimated by resampling: 95% of the means lie within the mean and
    so much to each side. `p_value` is the probability of a difference as large from the model that
    is evaluated if there were none; None of that model itself.
    """

    score: float
    mean: float
    interval: float
    p_value: float | None


class Comparison(TypedDict):
    """A comparison of systems; the model that is evaluated is the first."""

    test: str
    systems: list[dict[str, str | Compared]]
    signatures: dict[str, str]


def read_rivals(against: Sequence[Path], test_sets: Sequence[TestSet]) -> dict[str, list[Rival]]:
    """Read what to compare with, by the names of the test sets.

    Args:
        against: Runs that were evaluated on the same test sets, or files of translations.
        test_sets: What is evaluated.

    Raises:
        UserError: There are no such translations, or they are of another text.
    """
    names = [path.name or str(path) for path in against]
    rivals: dict[str, list[Rival]] = {test_set.name: [] for test_set in test_sets}
    for path, name in zip(against, names, strict=True):
        shown = name if names.count(name) == 1 else str(path)
        if not path.is_dir() and len(test_sets) > 1:
            raise UserError(
                "is a file, which can only be the translation of one test set",
                where=f"--against {path}",
                remedy="name one test set, or compare with runs",
            )
        for test_set in test_sets:
            file = path
            if path.is_dir():
                file = RunDirectory(path).evaluation / f"{test_set.name}.hyp"
                _refuse_other_text(path, test_set)
            lines = read_lines(file)
            if len(lines) != len(test_set.sources):
                raise UserError(
                    f"has {len(lines):,} lines, but the test set {test_set.name} has "
                    f"{len(test_set.sources):,}",
                    where=file,
                    remedy="give translations of the same text, line by line",
                )
            rivals[test_set.name].append(Rival(shown, lines))
    return rivals


def _refuse_other_text(run: Path, test_set: TestSet) -> None:
    """Refuse a run whose translations of a test set are not of the same file.

    Raises:
        UserError: They are not, or there are none.
    """
    path = RunDirectory(run).evaluation / f"{test_set.name}.json"
    remedy = f"run `nmtasync evaluate {run} --test {test_set.name} SRC REF` on the same files"
    try:
        digest = parse_json(read_document(path))["source"]["sha256"]
    except FileNotFoundError:
        message = f"was not evaluated on a test set {test_set.name}"
        raise UserError(message, where=run, remedy=remedy) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"can't be read: {error}", where=path, remedy=remedy) from None
    if digest != test_set.files["source"]["sha256"]:
        raise UserError(
            f"was evaluated on another text by the name of {test_set.name}",
            where=run,
            remedy=remedy,
        )


def compare(
    name: str,
    hypotheses: Sequence[str],
    rivals: Sequence[Rival],
    test_set: TestSet,
    target_language: str | None,
    test: str,
) -> Comparison:
    """Compare a model with others on a test set.

    Args:
        name: Of the model.
        hypotheses: Its translations.
        rivals: Those of the others.
        test_set: What was translated.
        target_language: As of `metrics.score`.
        test: One of `TESTS`.
    """
    from sacrebleu.significance import PairedTest

    metrics = build_metrics(target_language)
    systems: list[tuple[str, Sequence[str]]] = [(name, hypotheses)]
    systems += [(rival.name, rival.hypotheses) for rival in rivals]
    paired = PairedTest(
        systems,
        metrics,
        [test_set.references, *test_set.more_references],
        test_type=TESTS[test],
        n_ar_confidence=0 if test == "randomization" else -1,
    )
    signatures, scores = paired()
    # by the names that the metrics give themselves, in the same order
    columns = dict(zip(metrics, (scores[key] for key in signatures), strict=True))
    return {
        "test": test,
        "systems": [
            {"name": system, **{metric: _result(column[i]) for metric, column in columns.items()}}
            for i, (system, _) in enumerate(systems)
        ],
        "signatures": dict(zip(metrics, map(str, signatures.values()), strict=True)),
    }


def _result(result: object) -> Compared:
    values = {name: getattr(result, name) for name in ("score", "mean", "ci", "p_value")}
    p_value = values["p_value"]
    return {
        "score": float(values["score"]),
        "mean": float(values["mean"]),
        "interval": float(values["ci"]),
        "p_value": None if p_value is None else float(p_value),
    }
