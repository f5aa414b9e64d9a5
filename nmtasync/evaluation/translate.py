"""Translate lines of text: subwords, batches of similar length, search, and text again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.cleaning import clean_line
from nmtasync.data.vocabulary import EOS, PAD, VocabularyPair
from nmtasync.decoding.beam import beam_search
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.hypothesis import Hypothesis
from nmtasync.decoding.sampling import sample
from nmtasync.evaluation.batches import pad, plan_batches
from nmtasync.evaluation.translation import BLANK, Found, Translation, describe_in_detail
from nmtasync.machine.forks import can_fork, map_in_forks
from nmtasync.machine.memory import compute_in_parts
from nmtasync.machine.threads import map_in_threads
from nmtasync.models.sequence_to_sequence import SequenceToSequence

Progress = Callable[[int, int], None]
"""Is told how many sentences are done, and of how many."""

COUNTED = {
    "cut_sources": "lines were longer than can be translated, and were cut",
    "cut_prefixes": "prefixes were longer than a translation can be, and were cut",
    "ended_by_length": "translations were ended by the greatest length",
}
"""What `Translator.counts` counts, in words for the total."""


def totals(counts: Mapping[str, int]) -> list[str]:
    """Say how many lines there were of each kind of which there was more than the one told of."""
    return [f"{counts[k]:,} {words}" for k, words in COUNTED.items() if counts.get(k, 0) > 1]


class _Work(NamedTuple):
    """What has come of a batch.

    Attributes:
        batch: The places of its lines.
        found: The hypotheses of each.
        described: The translations of each.
        num_splits: How many times memory did not suffice.
    """

    batch: list[int]
    found: list[list[Hypothesis]]
    described: list[list[Translation]]
    num_splits: int


class _Splits:
    """How many times memory did not suffice for what was computed at once."""

    number = 0

    def add(self) -> None:
        """Count one more."""
        self.number += 1


class Translator:
    """Translates text with one model, or several that predict together.

    Args:
        model: The network or networks; they are put in evaluation mode.
        vocabularies: The subwords of both sides.
        config: How to search.
        device: Where the model lies.
        on_warning: Is told about the first line of each kind that can't be translated as it is:
            its number and what is wrong.
        on_split: Is called when a batch is too large for the memory, and is halved.
        max_pieces: Where longer lines are cut, if not where all are.

    Attributes:
        counts: How many lines there were of each kind of `COUNTED`.
    """

    def __init__(
        self,
        model: SequenceToSequence | Ensemble,
        vocabularies: VocabularyPair,
        config: DecodingConfig,
        device: torch.device | str = "cpu",
        on_warning: Callable[[int, str], None] | None = None,
        on_split: Callable[[], None] = lambda: None,
        max_pieces: int | None = None,
    ) -> None:
        self.model = model
        self.ensemble = Ensemble.of(model)
        self.vocabularies = vocabularies
        self.config = config
        self.device = torch.device(device)
        self.on_warning = on_warning
        self.on_split = on_split
        self.max_pieces = max_pieces
        self.counts: Counter[str] = Counter()

    def translate(self, lines: Sequence[str], on_progress: Progress | None = None) -> list[str]:
        """Translate lines, in their order; a blank line gives a blank line."""
        return [best[0].text for best in self.translate_n_best(lines, 1, on_progress)]

    def translate_n_best(
        self,
        lines: Sequence[str],
        num_best: int,
        on_progress: Progress | None = None,
        *,
        prefixes: Sequence[str] | None = None,
        first_line: int = 0,
        details: bool = False,
    ) -> list[list[Translation]]:
        """Find several translations of each line, best first, whose texts differ.

        Args:
            lines: The text.
            num_best: How many at most; of a search, no more than the beam's size.
            on_progress: Is called after each batch.
            prefixes: What each translation shall begin with, blank for anything; None for none.
            first_line: The number of the first line, of which samples depend.
            details: Whether pieces, their scores and links are asked for.

        Returns:
            The translations of each line; of a blank line, a blank one with score 0.
        """
        self.ensemble.end_training()
        results = [[BLANK] for _ in lines]
        sources = self._segment(lines, first_line)
        begun = self._segment_prefixes(prefixes, first_line)
        lengths = {line: len(ids) for line, ids in sources.items()}
        done = len(lines) - len(sources)

        def work(batch: list[int]) -> _Work:
            ids = [sources[line] for line in batch]
            texts = [clean_line(lines[line]) for line in batch]
            keys = [
                self._keys(first_line + line, text, num_best)
                for line, text in zip(batch, texts, strict=True)
            ]
            splits = _Splits()
            found = self._search(ids, keys, begun and [begun[line] for line in batch], splits)
            described = self._describe(texts, ids, found, splits, details)
            return _Work(batch, found, described, splits.number)

        for each in self._map(work, [*plan_batches(lengths, self.config.batch_sentences)]):
            for _ in range(each.num_splits):
                self.on_split()
            for line, translations in zip(each.batch, each.described, strict=True):
                results[line] = translations
            self._note_ended(first_line, each.batch, each.found)
            done += len(each.batch)
            if on_progress:
                on_progress(done, len(lines))
        return results

    def _map(self, work: Callable[[list[int]], _Work], batches: list[list[int]]) -> Iterator[_Work]:
        """Do the work of all batches; on a CPU several at a time."""
        if self.device.type != "cpu":
            return map(work, batches)
        if can_fork(len(batches)):
            return map_in_forks(work, batches)
        return map_in_threads(work, batches, len(batches))

    def _segment(self, lines: Sequence[str], first_line: int = 0) -> dict[int, list[int]]:
        """Compute the source ids of each line, EOS last, by its place; blank lines have none."""
        lines = [clean_line(line) for line in lines]
        sources, most = {}, self.ensemble.max_pieces
        if self.max_pieces is not None:
            most = min(most, self.max_pieces)
        for line, ids in enumerate(self.vocabularies.source.encode(lines)):
            if len(ids) > most:
                what = f"has {len(ids):,} pieces; only the first {most:,} are translated"
                self._note("cut_sources", first_line + line, what)
            if ids and lines[line]:
                sources[line] = [*ids[:most], EOS]
        return sources

    def _segment_prefixes(
        self, prefixes: Sequence[str] | None, first_line: int
    ) -> list[list[int]] | None:
        """Compute the ids with which each translation begins."""
        if prefixes is None:
            return None
        most = self.ensemble.max_pieces
        segmented = self.vocabularies.target.encode([clean_line(text) for text in prefixes])
        for line, ids in enumerate(segmented):
            if len(ids) > most:
                what = f"its prefix has {len(ids):,} pieces; only the first {most:,} are taken"
                self._note("cut_prefixes", first_line + line, what)
        return [ids[:most] for ids in segmented]

    def _note(self, kind: str, line: int, what: str) -> None:
        """Count a line of a kind of `COUNTED`, and tell of the first."""
        self.counts[kind] += 1
        if self.counts[kind] == 1 and self.on_warning:
            self.on_warning(line, what)

    def _note_ended(self, first_line: int, batch: list[int], found: list[list[Hypothesis]]) -> None:
        for line, (best, *_) in zip(batch, found, strict=True):
            if best.at_limit:
                length = len(best.ids)
                what = f"its translation was ended after {length:,} pieces, the most allowed"
                self._note("ended_by_length", first_line + line, what)

    def _keys(self, line: int, text: str, number: int) -> list[int]:
        """Compute what decides on the samples of a line: seed, number of the line, and text."""
        start = f"{self.config.seed}\n{line}\n{text}\n".encode()
        hashes = (hashlib.blake2b(start + b"%d" % i, digest_size=16) for i in range(number))
        return [int.from_bytes(each.digest(), "little") for each in hashes]

    def _search(
        self,
        sources: Sequence[list[int]],
        keys: list[list[int]],
        begun: list[list[int]] | None,
        splits: _Splits,
    ) -> list[list[Hypothesis]]:
        """Find the hypotheses of a batch, as many of each sentence as it has keys."""
        num_best = len(keys[0])
        text_of = self._text_of if num_best > 1 else None

        def search(places: range) -> list[list[Hypothesis]]:
            part = slice(places.start, places.stop)
            source = pad(sources[part]).to(self.device)
            prefixes = begun and begun[part]
            given = self.ensemble, source, source != PAD, self.config
            if self.config.sampling:
                return sample(*given, keys[part], prefixes=prefixes, text_of=text_of)
            return beam_search(*given, num_best=num_best, prefixes=prefixes, text_of=text_of)

        parts = compute_in_parts(len(sources), search, splits.add)
        return [hypotheses for part in parts for hypotheses in part]

    def _text_of(self, ids: list[int]) -> str:
        return self.vocabularies.target.decode([ids])[0]

    def _describe(
        self,
        lines: Sequence[str],
        sources: Sequence[list[int]],
        found: list[list[Hypothesis]],
        splits: _Splits,
        details: bool,
    ) -> list[list[Translation]]:
        """Build the translations of a batch."""
        if details:
            rows = [
                Found(line, source, hypothesis)
                for line, source, hypotheses in zip(lines, sources, found, strict=True)
                for hypothesis in hypotheses
            ]
            how = self.config.batch_sentences, self.device, splits.add
            described = iter(describe_in_detail(self.ensemble, self.vocabularies, rows, *how))
            return [[next(described) for _ in hypotheses] for hypotheses in found]
        texts = iter(self.vocabularies.target.decode([h.ids for each in found for h in each]))
        return [[Translation(next(texts), h.score, h.normalized) for h in each] for each in found]
