"""BLEU, chrF and TER, as sacrebleu defines them, with their signatures.

Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from nmtasync.config.languages import tokens_of

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.ter import TER


class Score(TypedDict):
    """One metric's result: BLEU and chrF from 0 to 100, TER in percent, and how it was made."""

    score: float
    signature: str


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    target_language: str | None = None,
    more_references: Sequence[Sequence[str]] = (),
) -> dict[str, Score]:
    """Score translations of a whole test set, cased and detokenised.

    Args:
        hypotheses: The translations.
        references: One reference for each.
        target_language: Code of the target language, in any usual form, which decides how BLEU
            and TER tokenize.
        more_references: Other references, each list as long.

    Returns:
        The scores by name: "bleu", "chrf" (chrF2) and "ter".

    Raises:
        UserError: The code is none.
    """
    everything = [list(references), *map(list, more_references)]
    assert len(hypotheses) > 0 and {len(lines) for lines in everything} == {len(hypotheses)}
    result: dict[str, Score] = {}
    for name, metric in build_metrics(target_language).items():
        value = metric.corpus_score(list(hypotheses), everything)
        result[name] = {"score": value.score, "signature": str(metric.get_signature())}
    return result


def build_metrics(target_language: str | None) -> dict[str, Metric]:
    """Build the metrics of `score`, by name."""
    from sacrebleu.metrics.chrf import CHRF

    return {"bleu": _bleu(target_language), "chrf": CHRF(), "ter": _ter(target_language)}


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], target_language: str | None = None
) -> float:
    """Score translations by BLEU alone, from 0 to 100; arguments as in `score`."""
    assert len(hypotheses) == len(references) > 0
    value = _bleu(target_language).corpus_score(list(hypotheses), [list(references)])
    return float(value.score)


def score_sentences(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    by: str = "chrf",
    target_language: str | None = None,
) -> list[float]:
    """Score each translation by itself, from 0 to 100.

    Args:
        hypotheses: The translations.
        references: One list or several, each as long.
        by: "chrf", or "bleu", whose orders that a short sentence has no n-grams of do not count.
        target_language: As of `score`.
    """
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF() if by == "chrf" else _bleu(target_language, effective_order=True)
    lines = zip(hypotheses, zip(*references, strict=True), strict=True)
    return [float(metric.sentence_score(line, list(known)).score) for line, known in lines]


def _bleu(target_language: str | None, *, effective_order: bool = False) -> BLEU:
    """Choose the tokenizer as sacrebleu's own command line does, or characters for want of one.

    The tokenizers of Japanese and Korean need MeCab, which is not installed with sacrebleu;
    without it, characters are counted, and the signature says so.
    """
    from sacrebleu.metrics.bleu import BLEU

    match tokens_of(target_language):
        case "words":
            return BLEU(effective_order=effective_order)
        case "characters":
            return BLEU(tokenize="char", effective_order=effective_order)
        case language:
            try:
                return BLEU(trg_lang=language, effective_order=effective_order)
            except (ImportError, RuntimeError):
                return BLEU(tokenize="char", effective_order=effective_order)


def _ter(target_language: str | None) -> TER:
    from sacrebleu.metrics.ter import TER

    asian = tokens_of(target_language) in ("zh", "ja", "ko")
    return TER(normalized=asian, asian_support=asian)
