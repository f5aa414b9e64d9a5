"""What may be generated next: lengths, forced prefixes, no n-gram twice.

Shapes: B sentences and S source pieces at the start; N sentences that are still searched, K
hypotheses of each, V target vocabulary, t pieces generated so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.vocabulary import EOS
from nmtasync.decoding.hypothesis import NEVER

EXTRA_LENGTH = 10
"""Pieces that a translation may have beyond the ratio to its source."""


@dataclass(frozen=True)
class Constraints:
    """The rules for the sentences of a batch.

    PAD, UNK and BOS are never generated, and the last piece that the length allows can only be
    the end of sentence. A forced piece comes whatever the other rules say.

    Attributes:
        limits: The most pieces of each sentence, the end counted.
        prefixes: The first pieces of each sentence.
        min_length: The fewest pieces, the end not counted, where the limit allows them.
        ngram_size: How many pieces in a row must not come twice; 0 lets them.
    """

    limits: list[int]
    prefixes: Sequence[Sequence[int]]
    min_length: int
    ngram_size: int

    @classmethod
    def of(
        cls,
        config: DecodingConfig,
        source_mask: Tensor,
        most: int | None,
        prefixes: Sequence[Sequence[int]] | None,
    ) -> Constraints:
        """Take them from the options of decoding.

        Args:
            config: The options.
            source_mask: True where the source has a real piece [B, S].
            most: How many pieces the network can place, the end counted; None for any number.
            prefixes: The first pieces of each sentence; None for none. A longer one than the
                network can place is cut.
        """
        lengths = source_mask.sum(1).tolist()
        limits = [int(config.max_length_ratio * n) + EXTRA_LENGTH for n in lengths]
        if prefixes is None:
            prefixes = [()] * len(limits)
        pairs = zip(limits, prefixes, strict=True)
        limits = [max(n, len(prefix) + EXTRA_LENGTH) if prefix else n for n, prefix in pairs]
        if most is not None:
            limits = [min(limit, most) for limit in limits]
        kept = [prefix[: n - 1] for n, prefix in zip(limits, prefixes, strict=True)]
        return cls(limits, kept, config.min_length, config.no_repeat_ngram_size)

    def apply(self, logits: Tensor, sentences: list[int], history: Tensor) -> None:
        """Set the logits of what must not come next to minus infinity.

        Args:
            logits: Of the next piece [N * K, V], changed in place.
            sentences: Which sentences of the batch they are of, N numbers.
            history: The pieces of each hypothesis, BOS first [N, K, 1 + t].
        """
        num_live, length = history.shape[1:]
        forced = self._forced(logits, sentences, num_live, length)

        logits[:, :EOS] = NEVER  # PAD, UNK and BOS
        if 0 < self.ngram_size <= length - 1:
            self._forbid_repetition(logits, history)
        for row, sentence in enumerate(sentences):
            if length == self.limits[sentence]:
                last = logits[row * num_live : (row + 1) * num_live]
                last[:, :EOS] = NEVER
                last[:, EOS + 1 :] = NEVER
            elif length <= self.min_length:
                logits[row * num_live : (row + 1) * num_live, EOS] = NEVER

        for rows, piece, values in forced:
            rows.fill_(NEVER)
            rows[:, piece] = values

    def _forced(
        self, logits: Tensor, sentences: list[int], num_live: int, length: int
    ) -> list[tuple[Tensor, int, Tensor]]:
        """Collect the rows whose next piece is given, with that piece and its logits."""
        found = []
        for row, sentence in enumerate(sentences):
            prefix = self.prefixes[sentence]
            if length <= len(prefix):
                rows, piece = logits[row * num_live : (row + 1) * num_live], prefix[length - 1]
                found.append((rows, piece, rows[:, piece].clone()))
        return found

    def _forbid_repetition(self, logits: Tensor, history: Tensor) -> None:
        """Forbid the pieces that would end an n-gram which a hypothesis has already."""
        pieces = history[:, :, 1:].flatten(0, 1)
        ngrams = pieces.unfold(1, self.ngram_size, 1)
        last = pieces[:, pieces.shape[1] - self.ngram_size + 1 :]
        same = (ngrams[:, :, :-1] == last.unsqueeze(1)).all(2)
        rows, places = same.nonzero(as_tuple=True)
        logits[rows, ngrams[rows, places, -1]] = NEVER
