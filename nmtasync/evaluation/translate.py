"""Translate lines of text: subwords, batches of similar length, search, and text again.

Shapes: B sentences of a batch, S pieces of its longest source, EOS counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.cleaning import clean_line
from nmtasync.data.vocabulary import EOS, PAD, VocabularyPair
from nmtasync.decoding.beam import Hypothesis, beam_search
from nmtasync.machine.memory import compute_in_parts
from nmtasync.models.sequence_to_sequence import SequenceToSequence

MAX_SOURCE_PIECES = 1000
"""A longer line is cut here, or where the model's positions end: no model is trained for it, and it
would fill the memory."""

MAX_BATCH_PIECES = 4096
"""Source pieces of a batch, padding counted."""

Progress = Callable[[int, int], None]
"""Is told how many sentences are done, and of how many."""


class Translator:
    """Translates text with one model.

    Args:
        model: The network; it is put in evaluation mode.
        vocabularies: The subwords of both sides.
        config: How to search.
        device: Where the model lies.
        on_warning: Is told about a line that can't be translated as it is: its place in the
            list, from 0, and what is wrong.
        on_split: Is called when a batch is too large for the memory, and is halved.
        max_pieces: Where longer lines are cut, if not where all are.
    """

    def __init__(
        self,
        model: SequenceToSequence,
        vocabularies: VocabularyPair,
        config: DecodingConfig,
        device: torch.device | str = "cpu",
        on_warning: Callable[[int, str], None] | None = None,
        on_split: Callable[[], None] = lambda: None,
        max_pieces: int | None = None,
    ) -> None:
        self.model = model
        self.vocabularies = vocabularies
        self.config = config
        self.device = torch.device(device)
        self.on_warning = on_warning
        self.on_split = on_split
        self.max_pieces = max_pieces

    def translate(self, lines: Sequence[str], on_progress: Progress | None = None) -> list[str]:
        """Translate lines, in their order; a blank line gives a blank line."""
        return [best[0][0] for best in self.translate_n_best(lines, 1, on_progress)]

    def translate_n_best(
        self, lines: Sequence[str], num_best: int, on_progress: Progress | None = None
    ) -> list[list[tuple[str, float]]]:
        """Find several translations of each line, best first.

        Args:
            lines: The text.
            num_best: How many at most, no more than the beam's size.
            on_progress: Is called after each batch.

        Returns:
            Of each line, translations with their scores, log probabilities normalised by length
            as the configuration says; of a blank line, a blank one with score 0.
        """
        self.model.eval()
        results: list[list[tuple[str, float]]] = [[("", 0.0)] for _ in lines]
        sources = self._segment(lines)
        done = len(lines) - len(sources)
        for batch in self._plan(sources):
            for line, hypotheses in zip(batch, self._search(batch, sources, num_best), strict=True):
                texts = self.vocabularies.target.decode([h.ids for h in hypotheses])
                scores = [h.normalized for h in hypotheses]
                results[line] = list(zip(texts, scores, strict=True))
            done += len(batch)
            if on_progress:
                on_progress(done, len(lines))
        return results

    def _segment(self, lines: Sequence[str]) -> dict[int, list[int]]:
        """Compute the source ids of each line, EOS last, by its number; blank lines have none."""
        lines = [clean_line(line) for line in lines]
        sources, most = {}, MAX_SOURCE_PIECES
        if self.max_pieces is not None:
            most = min(most, self.max_pieces)
        if self.model.max_length is not None:
            most = min(most, self.model.max_length - 1)
        for line, ids in enumerate(self.vocabularies.source.encode(lines)):
            if len(ids) > most and self.on_warning:
                self.on_warning(
                    line, f"has {len(ids):,} pieces; only the first {most:,} are translated"
                )
            if ids and lines[line]:
                sources[line] = [*ids[:most], EOS]
        return sources

    def _plan(self, sources: dict[int, list[int]]) -> Iterator[list[int]]:
        """Group lines of similar length, the longest first: if memory lacks, then at once."""
        batch: list[int] = []
        longest = 0
        for line in sorted(sources, key=lambda line: -len(sources[line])):
            longest = longest or len(sources[line])
            full = len(batch) == self.config.batch_sentences
            if batch and (full or (len(batch) + 1) * longest > MAX_BATCH_PIECES):
                yield batch
                batch, longest = [], len(sources[line])
            batch.append(line)
        if batch:
            yield batch

    def _search(
        self, batch: list[int], sources: dict[int, list[int]], num_best: int
    ) -> list[list[Hypothesis]]:
        def search(places: range) -> list[list[Hypothesis]]:
            lines = batch[places.start : places.stop]
            source = pad([sources[line] for line in lines]).to(self.device)
            return beam_search(
                self.model,
                source,
                source != PAD,
                beam_size=self.config.beam_size,
                length_normalization=self.config.length_normalization,
                max_length_ratio=self.config.max_length_ratio,
                num_best=num_best,
            )

        parts = compute_in_parts(len(batch), search, self.on_split)
        return [hypotheses for part in parts for hypotheses in part]


def pad(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Put sentences of ids in one tensor, filled up with PAD [B, S]."""
    longest = max(len(ids) for ids in sentences)
    return torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in sentences])
