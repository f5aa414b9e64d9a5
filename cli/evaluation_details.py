"""What `nmtasync evaluate` is asked to translate, and to find out beside the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtasync.errors import UserError

if TYPE_CHECKING:
    from nmtasync.evaluation.significance import Rival
    from nmtasync.evaluation.test_sets import Evaluation, TestSet


def read_test_sets(
    tests: Sequence[tuple[str, Path, Path]],
    references: Sequence[tuple[str, Path]],
    public: Sequence[str],
    language_pair: str | None,
) -> list[TestSet]:
    """Read all test sets before anything else, so that a wrong path is reported at once.

    Args:
        tests: Names, sources and references of `--test`.
        references: Names and references of `--reference`.
        public: Names of `--test-set`.
        language_pair: Of those.

    Raises:
        UserError: There is none, or one can't be read, or a name stands for two.
    """
    from nmtasync.evaluation.public_test_sets import read_public_test_set
    from nmtasync.evaluation.test_sets import read_test_set

    if not tests and not public:
        raise UserError(
            "is missing", where="--test", remedy="give --test NAME SRC REF, or --test-set"
        )
    if bool(public) != (language_pair is not None):
        missing = "--language-pair" if public else "--test-set"
        raise UserError("is missing beside the other", where=missing, remedy="give both")
    names = [name for name, _, _ in tests]
    for name, _ in references:
        if name not in names:
            raise UserError(
                "names no test set", where=f"--reference {name}", remedy="give --test of that name"
            )
    for name in names:
        if names.count(name) > 1:
            raise UserError("is the name of two test sets", where=f"--test {name}")
    test_sets = [
        read_test_set(
            name, source, reference, *(path for other, path in references if other == name)
        )
        for name, source, reference in tests
    ]
    test_sets += [read_public_test_set(name, language_pair or "") for name in public]
    twice = [name for name, count in Counter(s.name for s in test_sets).items() if count > 1]
    if twice:
        raise UserError("is the name of two test sets", where=f"--test-set {twice[0]}")
    return test_sets


@dataclass(frozen=True)
class Details:
    """What is to be found out of each test set beside its scores.

    Attributes:
        run: What is evaluated.
        rivals: What to compare with, by the names of the test sets.
        significance: How.
        bounds: Of the lengths of sources.
        num_examples: How many of the best and of the worst sentences.
        examples_by: What they are chosen by.
        comet_model: Of COMET; None without it.
    """

    run: Path
    rivals: dict[str, list[Rival]]
    significance: str
    bounds: list[int]
    num_examples: int
    examples_by: str
    comet_model: str | None

    @classmethod
    def of(
        cls,
        run: Path,
        test_sets: Sequence[TestSet],
        *,
        against: Sequence[Path],
        significance: str | None,
        by_length: str | None,
        examples: int | None,
        examples_by: str | None,
        metrics: str | None,
        comet_model: str | None,
    ) -> Details:
        """Read and check what the command line asks for; arguments as there.

        Raises:
            UserError: An option has no effect, or what it names can't be read.
        """
        from nmtasync.evaluation.breakdown import parse_bounds
        from nmtasync.evaluation.comet import DEFAULT_MODEL, refuse_missing_comet
        from nmtasync.evaluation.significance import read_rivals

        for flag, value, needed, there in (
            ("--significance", significance, "--against", against),
            ("--examples-by", examples_by, "--examples", examples),
            ("--comet-model", comet_model, "--metrics comet", metrics),
        ):
            if value is not None and not there:
                raise UserError(f"has no effect without {needed}", where=flag, remedy="add it")
        if metrics:
            refuse_missing_comet()
        for path in against:
            if path.resolve() == run.resolve():
                raise UserError(
                    "is the run that is evaluated",
                    where=f"--against {path}",
                    remedy="compare with a copy of its translations",
                )
        return cls(
            run,
            read_rivals(against, test_sets),
            significance or "bootstrap",
            parse_bounds(by_length) if by_length is not None else [],
            examples or 0,
            examples_by or "chrf",
            (comet_model or DEFAULT_MODEL) if metrics else None,
        )

    def add(
        self,
        description: dict[str, Any],
        evaluation: Evaluation,
        source_language: str | None,
        target_language: str | None,
    ) -> None:
        """Find it out, and add it to the description of an evaluation.

        Raises:
            NmtasyncError: COMET has failed; all else has been added.
        """
        from nmtasync.evaluation.breakdown import by_length, examples
        from nmtasync.evaluation.comet import score_by_comet
        from nmtasync.evaluation.significance import compare

        test_set = evaluation.test_set
        if rivals := self.rivals[test_set.name]:
            name = self.run.resolve().name
            hypotheses, test = evaluation.hypotheses, self.significance
            description["significance"] = compare(
                name, hypotheses, rivals, test_set, target_language, test
            )
        if self.bounds:
            languages = source_language, target_language
            description["by_length"] = by_length(evaluation, self.bounds, *languages)
        if self.num_examples:
            description["examples"] = examples(
                evaluation, self.num_examples, self.examples_by, target_language
            )
        if self.comet_model is not None:
            texts = test_set.sources, evaluation.hypotheses, test_set.references
            description["comet"] = score_by_comet(*texts, self.comet_model)
