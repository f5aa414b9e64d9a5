"""Batched beam search; greedy search is a beam of 1.

Shapes: N sentences that are still searched, K live hypotheses of each, V target vocabulary,
t pieces generated so far; B sentences and S source pieces at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.vocabulary import BOS, EOS
from nmtasync.decoding.constraints import Constraints
from nmtasync.decoding.ensemble import Ensemble, States
from nmtasync.decoding.hypothesis import NEVER, Found, Hypothesis, LengthPenalty, TextOf
from nmtasync.decoding.rows import best_continuations, close_ranks
from nmtasync.models.sequence_to_sequence import SequenceToSequence


@torch.no_grad()
def beam_search(
    model: SequenceToSequence | Ensemble,
    source: Tensor,
    source_mask: Tensor,
    config: DecodingConfig,
    *,
    num_best: int = 1,
    prefixes: Sequence[Sequence[int]] | None = None,
    text_of: TextOf | None = None,
) -> list[list[Hypothesis]]:
    """Translate a batch of sentences; each gets what it would get alone.

    A sentence has `beam_size` slots. At each step the best continuations of its live hypotheses
    take the slots; one that ends keeps its slot for good. The sentence is done when no slot is
    live, or when no live hypothesis can come among the `num_best`. What may be generated,
    `Constraints` says.

    Args:
        model: The network, or several, in evaluation mode.
        source: Source ids, the end of sentence last [B, S].
        source_mask: True where `source` is a real piece [B, S].
        config: The beam's size, the length penalty, and the constraints. The longest translation,
            end of sentence counted, is `max_length_ratio` times the source's pieces, end of
            sentence counted, plus ten, and no longer than the network's positions reach.
        num_best: How many hypotheses are wanted of each sentence, at most `beam_size`.
        prefixes: The pieces with which each translation begins; None for none.
        text_of: Tells which hypotheses spell the same, of which the best counts; None where
            different pieces are different translations.

    Returns:
        For each sentence at least one and at most `num_best` hypotheses, best first. Under a
        network whose output is not a number they are empty.
    """
    assert 1 <= num_best <= config.beam_size
    ensemble = Ensemble.of(model)
    constraints = Constraints.of(config, source_mask, ensemble.max_length, prefixes)
    found = [Found(text_of) for _ in constraints.limits]
    search = _Search(found, constraints, config.beam_size, LengthPenalty.of(config), num_best)
    states = ensemble.start(source, source_mask)
    live = _Live.begin(source.shape[0], source.device)
    while live.sentences:
        logits, normalizers, states = ensemble.step(live.history[:, :, -1].reshape(-1), states)
        live, states = search.advance(ensemble, (logits, normalizers), live, states)
    return [sentence.best(num_best) for sentence in found]


@dataclass(frozen=True)
class _Live:
    """The hypotheses that are searched on; their rows of the state stand in the same order.

    Attributes:
        sentences: Which sentences of the batch they belong to, N numbers.
        scores: Sums of log probabilities; minus infinity marks a slot without a hypothesis
            [N, K].
        history: Their pieces, the beginning of sentence first [N, K, 1 + t].
    """

    sentences: list[int]
    scores: Tensor
    history: Tensor

    @classmethod
    def begin(cls, sentences: int, device: torch.device) -> _Live:
        """Start one empty hypothesis for each sentence."""
        history = torch.full((sentences, 1, 1), BOS, device=device)
        scores = torch.zeros(sentences, 1, dtype=torch.float64, device=device)
        return cls(list(range(sentences)), scores, history)


@dataclass(frozen=True)
class _Search:
    """The finished hypotheses of each sentence of a batch, and the rules by which others go on."""

    finished: list[Found]
    constraints: Constraints
    beam_size: int
    penalty: LengthPenalty
    num_best: int

    def advance(
        self, ensemble: Ensemble, predicted: tuple[Tensor, Tensor], live: _Live, states: States
    ) -> tuple[_Live, States]:
        """Decide by logits and normalizers, as of `Ensemble.step`, which hypotheses go on."""
        num_live = live.scores.shape[1]
        tokens, parents, scores = self._best_continuations(*predicted, live)

        # Hypotheses that end leave; sentences without any other hypothesis worth it are done.
        ends = (tokens == EOS) & (scores > NEVER)
        if bool(ends.any()):
            self._finish(ends, parents, scores, live)
        scores = scores.masked_fill(tokens == EOS, NEVER)
        kept, width = self._choose_kept(scores, live)
        if not kept:
            return _Live([], scores, live.history), states

        # Of the sentences that go on, the live hypotheses move to the front, the best first.
        rows = torch.tensor(kept, device=scores.device)
        order = scores[rows].sort(dim=1, descending=True, stable=True).indices[:, :width]
        scores, tokens, parents = (x[rows].gather(1, order) for x in (scores, tokens, parents))
        history = torch.cat((live.history[rows[:, None], parents], tokens.unsqueeze(2)), dim=2)

        # The network's state follows, unless every row stays where it is.
        unmoved = num_live == width == 1 and len(kept) == len(live.sentences)
        if not unmoved:
            states = ensemble.reorder(states, rows[:, None] * num_live + parents)
        return _Live([live.sentences[row] for row in kept], scores, history), states

    def _best_continuations(
        self, logits: Tensor, normalizers: Tensor, live: _Live
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find the best pieces, the hypotheses that they continue, and their scores.

        Returns:
            Three tensors [N, beam_size], the best first; a slot that has a finished hypothesis
            already is no longer filled: it scores minus infinity.
        """
        self.constraints.apply(logits, live.sentences, live.history)
        size = logits.shape[1]
        offsets = live.scores - normalizers.view(live.scores.shape)
        number = min(self.beam_size, live.scores.shape[1] * size)
        scores, places = best_continuations(logits, offsets, number)

        # Finished hypotheses keep their slots.
        free = [self.beam_size - self.finished[sentence].num_added for sentence in live.sentences]
        taken = torch.arange(scores.shape[1]) >= torch.tensor(free)[:, None]
        scores = scores.masked_fill(taken.to(scores.device), NEVER)
        return places % size, places // size, scores

    def _finish(self, ends: Tensor, parents: Tensor, scores: Tensor, live: _Live) -> None:
        """Keep the hypotheses that have ended, where `ends` is True [N, beam_size]."""
        rows, slots = ends.nonzero(as_tuple=True)
        histories = live.history[rows, parents[rows, slots], 1:].tolist()
        ended = zip(rows.tolist(), scores[rows, slots].tolist(), histories, strict=True)
        for row, score, ids in ended:
            sentence, length = live.sentences[row], len(ids) + 1
            normalized = self.penalty.normalize(score, length)
            at_limit = length == self.constraints.limits[sentence]
            self.finished[sentence].add(Hypothesis(ids, score, normalized, at_limit))

    def _choose_kept(self, scores: Tensor, live: _Live) -> tuple[list[int], int]:
        """Choose the rows whose sentences go on, and the most live hypotheses of one of them."""
        counts = (scores > NEVER).sum(1).tolist()
        highest = scores.amax(1).tolist()
        kept = []
        for row, sentence in enumerate(live.sentences):
            # A score only falls; at best it stays until the sentence has its greatest length.
            limit = self.constraints.limits[sentence]
            bound = self.penalty.normalize(highest[row], limit)
            hypotheses = self.finished[sentence].hypotheses
            better = sum(hypothesis.normalized >= bound for hypothesis in hypotheses)
            if counts[row] and better < self.num_best:
                kept.append(row)
        return close_ranks(kept), max((counts[row] for row in kept), default=0)
