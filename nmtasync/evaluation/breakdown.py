"""Scores of parts of a test set, and single sentences: where a model is good, and where not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypedDict

from nmtasync.config.languages import tokens_of
from nmtasync.errors import UserError
from nmtasync.evaluation.metrics import score, score_sentences
from nmtasync.evaluation.test_sets import Evaluation


class Example(TypedDict):
    """A sentence, from line 1 on, with the score of its translation."""

    line: int
    score: float
    source: str
    reference: str
    hypothesis: str


def parse_bounds(text: str) -> list[int]:
    """Read the longest lengths of buckets, as 10,20,40.

    Raises:
        UserError: They are no whole numbers that rise.
    """
    words = text.split(",")
    bounds = [int(word) for word in words if word.strip().isdecimal() and len(word) < 10]
    if len(bounds) < len(words) or bounds[0] < 1 or any(a >= b for a, b in pairwise(bounds)):
        raise UserError(
            f"must be whole numbers that rise, not {text!r}",
            where="--by-length",
            remedy="as --by-length 10,20,40",
        )
    return bounds


def by_length(
    evaluation: Evaluation,
    bounds: Sequence[int],
    source_language: str | None,
    target_language: str | None,
) -> list[dict[str, Any]]:
    """Score the sentences of each length apart.

    Args:
        evaluation: The translations.
        bounds: The longest lengths of the buckets, in words of the source; after them comes one
            more. Where a language has no spaces between words, characters count.
        source_language: Its code, or None.
        target_language: As of `metrics.score`.

    Returns:
        Of each bucket that is not empty, its `shortest` and `longest` length, which is None in
        the last, its number of `sentences`, and the scores by metric.
    """
    test_set = evaluation.test_set
    words = tokens_of(source_language) == "words"
    lengths = [len(line.split()) if words else len(line) for line in test_set.sources]
    edges = [(a + 1, b) for a, b in pairwise([-1, *bounds])]
    buckets = []
    for shortest, longest in [*edges, (bounds[-1] + 1, None)]:
        places = [
            i for i, n in enumerate(lengths) if shortest <= n and (longest is None or n <= longest)
        ]
        if not places:
            continue
        hypotheses, references, *more = (
            [lines[i] for i in places]
            for lines in (evaluation.hypotheses, test_set.references, *test_set.more_references)
        )
        scores = score(hypotheses, references, target_language, more)
        buckets.append(
            {
                "shortest": shortest,
                "longest": longest,
                "sentences": len(places),
                **{name: entry["score"] for name, entry in scores.items()},
            }
        )
    return buckets


def examples(
    evaluation: Evaluation, number: int, by: str, target_language: str | None
) -> dict[str, Any]:
    """Find the sentences that were translated best and worst.

    Args:
        evaluation: The translations.
        number: How many of each kind.
        by: "chrf" or "bleu", of single sentences.
        target_language: As of `metrics.score`.

    Returns:
        `by`, and the sentences as lists `best`, the best first, and `worst`, the worst first; a
        sentence is in one of them only. Blank lines are left out.
    """
    test_set = evaluation.test_set
    references = [test_set.references, *test_set.more_references]
    scores = score_sentences(evaluation.hypotheses, references, by, target_language)
    places = [i for i, source in enumerate(test_set.sources) if source]
    places.sort(key=lambda i: -scores[i])
    number = min(number, len(places) // 2)

    def show(place: int) -> Example:
        return {
            "line": place + 1,
            "score": scores[place],
            "source": test_set.sources[place],
            "reference": test_set.references[place],
            "hypothesis": evaluation.hypotheses[place],
        }

    best, worst = places[:number], places[len(places) - number :][::-1]
    return {"by": by, "best": [show(i) for i in best], "worst": [show(i) for i in worst]}
