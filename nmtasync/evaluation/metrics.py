"""BLEU, chrF and TER, as sacrebleu defines them, with their signatures.

Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from nmtasync.config.languages import tokens_of

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.ter import TER


class Score(TypedDict):
    """One metric's result: BLEU and chrF from 0 to 100, TER in percent, and how it was made."""

    score: float
    signature: str


def score(
    hypotheses: Sequence[str], references: Sequence[str], target_language: str | None = None
) -> dict[str, Score]:
    """Score translations of a whole test set, cased and detokenised.

    Args:
        hypotheses: The translations.
        references: One reference for each.
        target_language: Code of the target language, in any usual form, which decides how BLEU
            and TER tokenize.

    Returns:
        The scores by name: "bleu", "chrf" (chrF2) and "ter".

    Raises:
        UserError: The code is none.
    """
    from sacrebleu.metrics.chrf import CHRF

    assert len(hypotheses) == len(references) > 0
    result: dict[str, Score] = {}
    metrics = {"bleu": _bleu(target_language), "chrf": CHRF(), "ter": _ter(target_language)}
    for name, metric in metrics.items():
        value = metric.corpus_score(list(hypotheses), [list(references)])
        result[name] = {"score": value.score, "signature": str(metric.get_signature())}
    return result


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], target_language: str | None = None
) -> float:
    """Score translations by BLEU alone, from 0 to 100; arguments as in `score`."""
    assert len(hypotheses) == len(references) > 0
    value = _bleu(target_language).corpus_score(list(hypotheses), [list(references)])
    return float(value.score)


def sentence_chrf(hypothesis: str, references: Sequence[str]) -> float:
    """Score one sentence by chrF2, from 0 to 100.

    Args:
        hypothesis: The translation.
        references: What it may be.
    """
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(hypothesis, list(references)).score)


def _bleu(target_language: str | None) -> BLEU:
    """Choose the tokenizer as sacrebleu's own command line does, or characters for want of one.

    The tokenizers of Japanese and Korean need MeCab, which is not installed with sacrebleu;
    without it, characters are counted, and the signature says so.
    """
    from sacrebleu.metrics.bleu import BLEU

    match tokens_of(target_language):
        case "words":
            return BLEU()
        case "characters":
            return BLEU(tokenize="char")
        case language:
            try:
                return BLEU(trg_lang=language)
            except (ImportError, RuntimeError):
                return BLEU(tokenize="char")


def _ter(target_language: str | None) -> TER:
    from sacrebleu.metrics.ter import TER

    asian = tokens_of(target_language) in ("zh", "ja", "ko")
    return TER(normalized=asian, asian_support=asian)
