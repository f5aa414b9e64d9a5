"""What a translation is, and what can be told about it: its pieces, their scores, word links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nmtasync.data.alignment import Links, Segmented
from nmtasync.data.vocabulary import EOS, PAD, VocabularyPair
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.hypothesis import Hypothesis
from nmtasync.evaluation.alignment import link_words
from nmtasync.evaluation.batches import pad, plan_batches
from nmtasync.machine.memory import compute_in_parts


@dataclass(frozen=True)
class Translation:
    """One translation of a line.

    Attributes:
        text: Its text.
        score: The sum of the log probabilities of its pieces in nats, the end of sentence
            included; 0 of a blank line.
        normalized: The score divided by the length penalty.
        pieces: The texts of its pieces, the end last; None where nobody has asked for them.
        piece_scores: The log probability of each of `pieces`, by forced decoding; or None.
        links: Source and target words, counted from 0, that attention links; or None.
    """

    text: str
    score: float
    normalized: float
    pieces: list[str] | None = None
    piece_scores: list[float] | None = None
    links: Links | None = None


BLANK = Translation("", 0.0, 0.0, [], [], [])
"""Of a blank line."""


class Found(NamedTuple):
    """A hypothesis with its source.

    Attributes:
        line: The source's text.
        source: The ids of its pieces, the end last.
        hypothesis: What was found.
    """

    line: str
    source: list[int]
    hypothesis: Hypothesis


def describe_in_detail(
    ensemble: Ensemble,
    vocabularies: VocabularyPair,
    found: Sequence[Found],
    max_sentences: int,
    device: torch.device,
    on_split: Callable[[], None],
) -> list[Translation]:
    """Score hypotheses piece by piece, by forced decoding, and link their words to the source's.

    Args:
        ensemble: What has found them.
        vocabularies: The subwords of both sides.
        found: The hypotheses, not that of a network whose output is no number.
        max_sentences: How many are computed together.
        device: Where.
        on_split: Is called when a batch is too large for the memory, and is halved.
    """
    result: dict[int, Translation] = {}
    lengths = {n: max(len(each.source), len(each.hypothesis.ids)) for n, each in enumerate(found)}
    for batch in plan_batches(lengths, max_sentences):
        rows = [found[number] for number in batch]

        def score(places: range, rows: list[Found] = rows) -> list[tuple[list[float], Tensor]]:
            part = rows[places.start : places.stop]
            source = pad([each.source for each in part]).to(device)
            targets = [each.hypothesis.ids for each in part]
            scores, weights = ensemble.score(source, source != PAD, targets, attention=True)
            assert weights is not None
            return list(zip(scores, weights.unbind(), strict=True))

        parts = compute_in_parts(len(rows), score, on_split)
        scored = [each for part in parts for each in part]
        segmented = vocabularies.source.segment([each.line for each in rows])
        for number, each, source, (scores, weights) in zip(
            batch, rows, segmented, scored, strict=True
        ):
            result[number] = _describe(vocabularies, each, source, scores, weights)
    return [result[number] for number in range(len(found))]


def _describe(
    vocabularies: VocabularyPair,
    found: Found,
    source: Segmented,
    scores: list[float],
    weights: Tensor,
) -> Translation:
    hypothesis, target = found.hypothesis, vocabularies.target
    text, decoded = target.decode_with_spans(hypothesis.ids)
    links: Links = []
    if found.line.split() and text.split():
        source_words = source.words(found.line)[: len(found.source) - 1]
        links = link_words(weights, source_words, decoded.words(text))
    pieces = target.spell([*hypothesis.ids, EOS])
    return Translation(text, hypothesis.score, hypothesis.normalized, pieces, scores, links)
