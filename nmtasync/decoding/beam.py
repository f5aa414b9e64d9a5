"""Batched beam search; greedy search is a beam of 1.

Shapes: N sentences that are still searched, K live hypotheses of each, V target vocabulary,
t pieces generated so far; B sentences and S source pieces at the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.data.vocabulary import BOS, EOS, PAD, UNK
from nmtasync.models.sequence_to_sequence import DecoderState, SequenceToSequence

EXTRA_LENGTH = 10
"""Pieces that a translation may have beyond the ratio to its source."""

_NEVER = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        ids: Its pieces, without the end of sentence.
        score: The sum of their log probabilities in nats, the end of sentence included.
        normalized: score / length ** length_normalization, the end of sentence counted.
    """

    ids: list[int]
    score: float
    normalized: float


@torch.no_grad()
def beam_search(
    model: SequenceToSequence,
    source: Tensor,
    source_mask: Tensor,
    *,
    beam_size: int,
    length_normalization: float,
    max_length_ratio: float,
    num_best: int = 1,
) -> list[list[Hypothesis]]:
    """Translate a batch of sentences; each gets what it would get alone.

    A sentence has `beam_size` slots. At each step the best continuations of its live hypotheses
    take the slots; one that ends keeps its slot for good. The sentence is done when no slot is
    live, or when no live hypothesis can come among the `num_best`. PAD, UNK and BOS are never
    generated, and the last piece that the length allows can only be the end of sentence.

    Args:
        model: The network, in evaluation mode.
        source: Source ids, the end of sentence last [B, S].
        source_mask: True where `source` is a real piece [B, S].
        beam_size: Slots of a sentence.
        length_normalization: The exponent of the length; 0 compares sums of log probabilities.
        max_length_ratio: The longest translation, end of sentence counted, is this many times
            the source's pieces, end of sentence counted, plus ten, and no longer than the
            network's positions reach.
        num_best: How many hypotheses are wanted of each sentence, at most `beam_size`.

    Returns:
        For each sentence at least one and at most `num_best` hypotheses, best first. Under a
        network whose output is not a number they are empty.
    """
    assert 1 <= num_best <= beam_size
    limits = [int(max_length_ratio * n) + EXTRA_LENGTH for n in source_mask.sum(1).tolist()]
    if model.max_length is not None:
        limits = [min(limit, model.max_length) for limit in limits]
    search = _Search([[] for _ in limits], limits, beam_size, length_normalization, num_best)
    state = model.start(model.encode(source, source_mask))
    live = _Live.begin(source.shape[0], source.device)
    while live.sentences:
        logits, state = model.decode_step(live.history[:, :, -1].reshape(-1), state)
        live, state = search.advance(model, logits, live, state)
    return [search.best(sentence) for sentence in range(len(limits))]


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
        return cls(list(range(sentences)), torch.zeros(sentences, 1, device=device), history)


@dataclass(frozen=True)
class _Search:
    """The finished hypotheses of each sentence of a batch, and the rules by which others go on."""

    finished: list[list[Hypothesis]]
    limits: list[int]
    beam_size: int
    length_normalization: float
    num_best: int

    def advance(
        self, model: SequenceToSequence, logits: Tensor, live: _Live, state: DecoderState
    ) -> tuple[_Live, DecoderState]:
        """Decide by logits [N * K, V] which hypotheses end, go on or are dropped."""
        num_live = live.scores.shape[1]
        tokens, parents, scores = self._best_continuations(logits, live)

        # Hypotheses that end leave; sentences without any other hypothesis worth it are done.
        ends = (tokens == EOS) & (scores > _NEVER)
        if bool(ends.any()):
            self._finish(ends, parents, scores, live)
        scores = scores.masked_fill(tokens == EOS, _NEVER)
        kept, width = self._choose_kept(scores, live)
        if not kept:
            return _Live([], scores, live.history), state

        # Of the sentences that go on, the live hypotheses move to the front, the best first.
        rows = torch.tensor(kept, device=scores.device)
        order = scores[rows].sort(dim=1, descending=True, stable=True).indices[:, :width]
        scores, tokens, parents = (x[rows].gather(1, order) for x in (scores, tokens, parents))
        history = torch.cat((live.history[rows[:, None], parents], tokens.unsqueeze(2)), dim=2)

        # The network's state follows, unless every row stays where it is.
        unmoved = num_live == width == 1 and len(kept) == len(live.sentences)
        if not unmoved:
            state = model.reorder(state, rows[:, None] * num_live + parents)
        return _Live([live.sentences[row] for row in kept], scores, history), state

    def _best_continuations(self, logits: Tensor, live: _Live) -> tuple[Tensor, Tensor, Tensor]:
        """Find the best pieces, the hypotheses that they continue, and their scores.

        Returns:
            Three tensors [N, beam_size], the best first; a slot that has a finished hypothesis
            already is no longer filled: it scores minus infinity.
        """
        sentences, num_live = live.scores.shape
        logits = logits.float()
        normalizers = logits.logsumexp(1)

        # What must not be generated; at the greatest length that is all but the end of sentence.
        logits[:, [PAD, UNK, BOS]] = _NEVER
        length = live.history.shape[2]
        for row, sentence in enumerate(live.sentences):
            if length == self.limits[sentence]:
                last = logits[row * num_live : (row + 1) * num_live]
                last[:, :EOS] = _NEVER
                last[:, EOS + 1 :] = _NEVER

        # The best of a sentence [N, beam_size] are among the best of its hypotheses.
        best, pieces = logits.topk(min(self.beam_size, logits.shape[1]), dim=1)
        total = best - normalizers.unsqueeze(1) + live.scores.view(-1, 1)
        total = total.view(sentences, -1)
        scores, places = total.topk(min(self.beam_size, total.shape[1]), dim=1)

        # Finished hypotheses keep their slots.
        free = [self.beam_size - len(self.finished[sentence]) for sentence in live.sentences]
        taken = torch.arange(scores.shape[1]) >= torch.tensor(free)[:, None]
        scores = scores.masked_fill(taken.to(scores.device), _NEVER)
        tokens = pieces.view(sentences, -1).gather(1, places)
        return tokens, places // best.shape[1], scores

    def _finish(self, ends: Tensor, parents: Tensor, scores: Tensor, live: _Live) -> None:
        """Keep the hypotheses that have ended, where `ends` is True [N, beam_size]."""
        rows, slots = ends.nonzero(as_tuple=True)
        histories = live.history[rows, parents[rows, slots], 1:].tolist()
        ended = zip(rows.tolist(), scores[rows, slots].tolist(), histories, strict=True)
        for row, score, ids in ended:
            normalized = score / (len(ids) + 1) ** self.length_normalization
            self.finished[live.sentences[row]].append(Hypothesis(ids, score, normalized))

    def _choose_kept(self, scores: Tensor, live: _Live) -> tuple[list[int], int]:
        """Choose the rows whose sentences go on, and the most live hypotheses of one of them."""
        counts = (scores > _NEVER).sum(1).tolist()
        highest = scores.amax(1).tolist()
        kept = []
        for row, sentence in enumerate(live.sentences):
            # A score only falls; at best it stays until the sentence has its greatest length.
            bound = highest[row] / self.limits[sentence] ** self.length_normalization
            better = [h for h in self.finished[sentence] if h.normalized >= bound]
            if counts[row] and len(better) < self.num_best:
                kept.append(row)
        return kept, max((counts[row] for row in kept), default=0)

    def best(self, sentence: int) -> list[Hypothesis]:
        """List a sentence's hypotheses, best first."""
        ranked = sorted(self.finished[sentence], key=lambda h: h.normalized, reverse=True)
        return ranked[: self.num_best] or [Hypothesis([], _NEVER, _NEVER)]
