"""Counts that grow chunk by chunk: of values with their quantiles, and of pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.data.vocabulary import UNK, Vocabulary

QUANTILES = {"5%": 0.05, "median": 0.5, "95%": 0.95, "99%": 0.99}

_CHUNK_TOKENS = 1 << 20

Array = npt.NDArray[Any]


class Distribution:
    """How often each value occurs; its figures are exact.

    Attributes:
        values: The different values, in order: [V].
        counts: How often each occurs: [V].
    """

    def __init__(self) -> None:
        self.values: Array = np.empty(0)
        self.counts: Array = np.empty(0, np.int64)

    def add(self, values: Array) -> None:
        """Count values: [N]."""
        self._add(*np.unique(values, return_counts=True))

    def merge(self, other: Distribution) -> None:
        """Count what another one has counted."""
        self._add(other.values, other.counts)

    def _add(self, values: Array, counts: Array) -> None:
        known = np.concatenate([self.values, values.astype(np.float64)])
        all_counts = np.concatenate([self.counts, counts])
        self.values, place = np.unique(known, return_inverse=True)
        self.counts = np.zeros(len(self.values), np.int64)
        np.add.at(self.counts, place, all_counts)

    def quantile(self, share: float) -> float:
        """Return the least value that at least this share of all values does not exceed."""
        sums = np.cumsum(self.counts)
        return float(self.values[np.searchsorted(sums, share * sums[-1])])

    def to_json(self) -> dict[str, float] | None:
        """The figures by their names: min, quantiles, mean and max; None if there is no value."""
        if not len(self.values):
            return None
        quantiles = {name: self.quantile(share) for name, share in QUANTILES.items()}
        mean = float(self.values @ self.counts / self.counts.sum())
        least, most = float(self.values[0]), float(self.values[-1])
        return {"min": least, **quantiles, "mean": mean, "max": most}


class PieceCounts:
    """How often each piece occurs, and in how many sentences bytes and unknown pieces do.

    Args:
        size: Of the vocabulary.
        byte_ids: Its pieces that are bytes.

    Attributes:
        counts: How often each piece occurs: [size].
        sentences_with: Sentences that have a piece of "bytes", or "unknown".
    """

    def __init__(self, size: int, byte_ids: list[int]) -> None:
        self.counts = np.zeros(size, np.int64)
        self.sentences_with = {"bytes": 0, "unknown": 0}
        self._groups = {"bytes": byte_ids, "unknown": [UNK]}

    def add(self, tokens: Array, offsets: Array) -> None:
        """Count sentences that lie end to end.

        Args:
            tokens: The pieces of the whole corpus.
            offsets: Where the first of N sentences begins, and where each ends: [N + 1].
        """
        last = dict.fromkeys(self._groups, -1)
        for begin in range(int(offsets[0]), int(offsets[-1]), _CHUNK_TOKENS):
            chunk = tokens[begin : min(begin + _CHUNK_TOKENS, int(offsets[-1]))]
            counts = np.bincount(chunk, minlength=len(self.counts))
            self.counts += counts
            for group, ids in self._groups.items():
                if not counts[ids].any():
                    continue
                is_one = np.zeros(len(counts), np.bool_)
                is_one[ids] = True
                places = begin + np.flatnonzero(is_one[chunk])
                sentences = np.searchsorted(offsets, places, side="right")
                different = 1 + int(np.count_nonzero(np.diff(sentences)))
                # a sentence may go on in the next chunk
                self.sentences_with[group] += different - int(sentences[0] == last[group])
                last[group] = int(sentences[-1])

    def merge(self, other: PieceCounts) -> None:
        """Count what another one of the same vocabulary has counted."""
        self.counts += other.counts
        for group, number in other.sentences_with.items():
            self.sentences_with[group] += number

    def to_json(self, vocabulary: Vocabulary, num_sentences: int, most: int) -> dict[str, Any]:
        """Write the figures.

        Args:
            vocabulary: Spells the pieces.
            num_sentences: How many were counted.
            most: So many pieces are listed at most.
        """
        pieces, total = vocabulary.pieces(), int(self.counts.sum())
        commonest = np.argsort(-self.counts, kind="stable")[:most]
        groups = {
            group: {
                "pieces": int(self.counts[ids].sum()),
                "share": float(self.counts[ids].sum() / max(total, 1)),
                "sentences": self.sentences_with[group],
                "sentences_share": self.sentences_with[group] / max(num_sentences, 1),
            }
            for group, ids in self._groups.items()
        }
        return {
            "pieces": total,
            **groups,
            "coverage": coverage(self.counts, vocabulary, most),
            "commonest": [
                {"piece": pieces[i], "count": int(self.counts[i])}
                for i in commonest
                if self.counts[i]
            ],
        }


def coverage(counts: Array, vocabulary: Vocabulary, most: int) -> dict[str, Any]:
    """Say how many pieces of text occur; bytes and control pieces stand ready for what is rare.

    Args:
        counts: How often each piece occurs: [size].
        vocabulary: Spells the pieces.
        most: So many of those that never occur are listed at most.
    """
    own = np.array(vocabulary.text_ids(), np.int64)
    missing = own[counts[own] == 0]
    return {
        "vocabulary": len(own),
        "occurring": len(own) - len(missing),
        "share": 1 - len(missing) / max(len(own), 1),
        "never": vocabulary.spell(missing[:most].tolist()),
    }
