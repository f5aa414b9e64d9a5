"""Sentences segmented anew whenever they are trained on: subword regularisation and BPE-dropout.

SentencePiece draws otherwise in each process, so the drawing is ours: by a seed alone, the same
whoever draws, and when. What is drawn spells what is stored: control pieces, bytes, unknown
characters and the symbols of users stay, and what stands between them is cut anew, word by word
where no piece leads across a space.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

from nmtasync.data.bpe_dropout import BpeDropout
from nmtasync.data.unigram_lattice import UnigramLattice
from nmtasync.data.vocabulary import Vocabulary, VocabularyPair

Sequences = list[list[int]]

_MOST_WORDS = 1 << 16


class SubwordSampler:
    """Draws segmentations of both sides of sentence pairs.

    Args:
        vocabularies: Whose pieces are drawn.
        alphas: Of source and target; None for a side that stays as it is. Of a vocabulary of
            merges the probability that one is left out; of a unigram vocabulary the power of a
            segmentation's probability that it is drawn with.
    """

    def __init__(
        self, vocabularies: VocabularyPair, alphas: tuple[float | None, float | None]
    ) -> None:
        self._vocabularies, self._alphas = vocabularies, alphas
        sides = (vocabularies.source, vocabularies.target)
        self._sides = [
            None if alpha is None else _Side(vocabulary, alpha)
            for vocabulary, alpha in zip(sides, alphas, strict=True)
        ]

    def __reduce__(self) -> tuple[type[SubwordSampler], tuple[object, ...]]:
        return SubwordSampler, (self._vocabularies, self._alphas)

    def draw(
        self, sides: Sequence[Sequences], longest: Sequence[int], seed: int
    ) -> list[Sequences]:
        """Draw pieces for sentences.

        Args:
            sides: Stored ids of source and target sentences.
            longest: The most pieces of either side; a sentence that would get more stays as it is.
            seed: The same seed draws the same.
        """
        random = Random(seed)
        return [
            sequences if side is None else [side.draw(ids, most, random) for ids in sequences]
            for side, sequences, most in zip(self._sides, sides, longest, strict=True)
        ]


class _Drawn(Protocol):
    def draw(self, random: Random) -> list[int] | None: ...


class _Side:
    def __init__(self, vocabulary: Vocabulary, alpha: float) -> None:
        self._alpha = alpha
        self._texts = vocabulary.pieces()
        self._pieces = {
            self._texts[i]: (i, score) for i, score in vocabulary.learned_scores().items()
        }
        self._longest = max(map(len, self._pieces), default=0)
        self._is_unigram = vocabulary.is_unigram
        by_word = vocabulary.is_word_by_word
        self._stays = [text not in self._pieces for text in self._texts]
        self._begins = [by_word and text.startswith("▁") for text in self._texts]
        # a method that is cached would keep the object
        self._segmentations = functools.lru_cache(_MOST_WORDS)(self._prepare)

    def draw(self, ids: list[int], most: int, random: Random) -> list[int]:
        drawn: list[int] = []
        for word in self._words(ids):
            if self._stays[word[0]]:
                drawn += word
            else:
                drawn += self._segmentations(word).draw(random) or word
        return drawn if len(drawn) <= most else ids

    def _words(self, ids: list[int]) -> Iterator[tuple[int, ...]]:
        """Cut a sentence into what is drawn for itself, and single pieces that stay."""
        start = 0
        for place in range(1, len(ids)):
            piece = ids[place]
            if self._begins[piece] or self._stays[piece] or self._stays[ids[place - 1]]:
                yield tuple(ids[start:place])
                start = place
        if ids:
            yield tuple(ids[start:])

    def _prepare(self, word: tuple[int, ...]) -> _Drawn:
        text = "".join(self._texts[i] for i in word)
        if self._is_unigram:
            return UnigramLattice(text, self._pieces, self._longest, self._alpha)
        return BpeDropout(text, self._pieces, self._alpha)
