"""Score given pairs of sentences: the log probability of each target piece, by forced decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.cleaning import clean_line
from nmtasync.data.vocabulary import EOS, PAD, VocabularyPair
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.hypothesis import LengthPenalty
from nmtasync.errors import NmtasyncError
from nmtasync.evaluation.batches import pad, plan_batches
from nmtasync.machine.memory import compute_in_parts

CHUNK_PAIRS = 2048
"""Pairs that are held at a time: enough that such of similar length find each other."""

CHUNK_CHARACTERS = 4 << 20

Pair = tuple[str, ...]


@dataclass(frozen=True)
class PairScore:
    """The score of a pair of sentences.

    Attributes:
        score: The sum of the log probabilities of the target's pieces in nats, the end of
            sentence included; None where `problem` says why there is none.
        normalized: The score divided by the length penalty.
        pieces: The texts of the target's pieces, the end last.
        piece_scores: The log probability of each of them.
        problem: "empty source", "empty target", "long source" or "long target".
    """

    score: float | None
    normalized: float | None
    pieces: list[str]
    piece_scores: list[float]
    problem: str | None = None


class Scorer:
    """Scores pairs with one model, or several that predict together.

    Args:
        ensemble: The networks.
        vocabularies: The subwords of both sides.
        config: The length penalty, and how many pairs are computed together.
        device: Where the networks lie.

    Attributes:
        problems: How many pairs had which problem.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        vocabularies: VocabularyPair,
        config: DecodingConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ensemble = ensemble
        self.vocabularies = vocabularies
        self.config = config
        self.device = torch.device(device)
        self.problems: Counter[str] = Counter()

    def score(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """Score source and target of each pair, in their order."""
        self.ensemble.end_training()
        sides = [[clean_line(text) for text in side] for side in zip(*pairs, strict=True)]
        results, sources, targets = self._judge(*sides) if pairs else ({}, {}, {})
        lengths = {n: 1 + max(len(sources[n]), len(targets[n])) for n in sources}
        for batch in plan_batches(lengths, self.config.batch_sentences):
            rows = [(sources[n], targets[n]) for n in batch]

            def score(
                places: range, rows: list[tuple[list[int], list[int]]] = rows
            ) -> list[list[float]]:
                part = rows[places.start : places.stop]
                source = pad([[*ids, EOS] for ids, _ in part]).to(self.device)
                given = [ids for _, ids in part]
                return self.ensemble.score(source, source != PAD, given)[0]

            parts = compute_in_parts(len(rows), score, lambda: None)
            scored = (each for part in parts for each in part)
            for n, scores in zip(batch, scored, strict=True):
                results[n] = self._describe(targets[n], scores)
        return [results[n] for n in range(len(pairs))]

    def _judge(
        self, sources: list[str], targets: list[str]
    ) -> tuple[dict[int, PairScore], dict[int, list[int]], dict[int, list[int]]]:
        """Segment pairs; return the results of those without a score, and the ids of the others."""
        most = self.ensemble.max_pieces
        encoded = {
            "source": self.vocabularies.source.encode(sources),
            "target": self.vocabularies.target.encode(targets),
        }
        texts = {"source": sources, "target": targets}
        results = {}
        for n in range(len(sources)):
            for side, ids in encoded.items():
                empty = not ids[n] or not texts[side][n]
                if empty or len(ids[n]) > most:
                    problem = f"{'empty' if empty else 'long'} {side}"
                    self.problems[problem] += 1
                    results[n] = PairScore(None, None, [], [], problem)
                    break
        kept = [n for n in range(len(sources)) if n not in results]
        source_ids, target_ids = ({n: ids[n] for n in kept} for ids in encoded.values())
        return results, source_ids, target_ids

    def _describe(self, ids: list[int], scores: list[float]) -> PairScore:
        total = sum(scores)
        normalized = LengthPenalty.of(self.config).normalize(total, len(scores))
        pieces = self.vocabularies.target.spell([*ids, EOS])
        return PairScore(total, normalized, pieces, scores)


def in_chunks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Gather pairs to chunks, which are small whatever their number and lengths.

    Raises:
        NmtasyncError: The pairs can't be read on; those before have been yielded.
    """
    chunk: list[Pair] = []
    characters = 0
    reading = iter(pairs)
    while True:
        try:
            pair = next(reading, None)
        except NmtasyncError:
            if chunk:
                yield chunk
            raise
        if pair is None:
            break
        chunk.append(pair)
        characters += sum(map(len, pair))
        if len(chunk) == CHUNK_PAIRS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
