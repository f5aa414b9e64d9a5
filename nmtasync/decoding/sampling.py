"""Sampling: each piece is drawn at random by its probability.

Sources: only the k most probable pieces, Fan et al. 2018, "Hierarchical Neural Story Generation";
only those of a probability mass p, Holtzman et al. 2020, "The Curious Case of Neural Text
Degeneration".

A piece is drawn as the highest of log probabilities with Gumbel noise. Each translation has a
stream of noise of its own, and each piece its place in it, so what is drawn does not depend on the
batch; nor does it jump where rounding differs by a little, as sums of probabilities would let it.
Shapes: R translations that are not finished, V target vocabulary, t pieces generated so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.vocabulary import BOS, EOS
from nmtasync.decoding.constraints import Constraints
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.hypothesis import NEVER, NOTHING, Found, Hypothesis, LengthPenalty, TextOf
from nmtasync.decoding.rows import close_ranks
from nmtasync.models.sequence_to_sequence import SequenceToSequence


@torch.no_grad()
def sample(
    model: SequenceToSequence | Ensemble,
    source: Tensor,
    source_mask: Tensor,
    config: DecodingConfig,
    keys: Sequence[Sequence[int]],
    *,
    prefixes: Sequence[Sequence[int]] | None = None,
    text_of: TextOf | None = None,
) -> list[list[Hypothesis]]:
    """Draw translations of a batch of sentences.

    Args:
        model: As of `beam_search`.
        source: As of `beam_search`.
        source_mask: As of `beam_search`.
        config: How pieces are drawn, and the constraints.
        keys: For each sentence a number of 128 bits for each translation that is wanted; with the
            same number it is drawn the same.
        prefixes: As of `beam_search`.
        text_of: As of `beam_search`.

    Returns:
        For each sentence at least one hypothesis and at most as many as it has keys, best first.
        Their scores are those of the network, whatever pieces were drawn from.
    """
    ensemble, penalty = Ensemble.of(model), LengthPenalty.of(config)
    owners = [sentence for sentence, wanted in enumerate(keys) for _ in wanted]
    noises = [np.random.Generator(np.random.Philox(key=key)) for wanted in keys for key in wanted]
    constraints = Constraints.of(config, source_mask, ensemble.max_length, prefixes)
    found = [Found(text_of) for _ in keys]
    rows = torch.tensor(owners, device=source.device)
    states = ensemble.start(source[rows], source_mask[rows])
    history = torch.full((len(owners), 1, 1), BOS, device=source.device)
    scores = torch.zeros(len(owners), dtype=torch.float64, device=source.device)
    while owners:
        logits, normalizers, states = ensemble.step(history[:, 0, -1], states)
        constraints.apply(logits, owners, history)
        tokens = _draw(logits, config, noises)
        chosen = logits.gather(1, tokens[:, None]).squeeze(1) - normalizers
        scores = scores + chosen
        ends, sums = ((tokens == EOS) | ~(chosen > NEVER)).tolist(), scores.tolist()
        for row in (row for row, end in enumerate(ends) if end):
            ids, length = history[row, 0, 1:].tolist(), history.shape[2]
            normalized = penalty.normalize(sums[row], length)
            at_limit = length == constraints.limits[owners[row]]
            whole = sums[row] > NEVER
            hypothesis = Hypothesis(ids, sums[row], normalized, at_limit) if whole else NOTHING
            found[owners[row]].add(hypothesis)

        # Finished translations leave.
        kept = close_ranks([row for row, end in enumerate(ends) if not end])
        history = torch.cat((history, tokens[:, None, None]), dim=2)
        if kept and len(kept) < len(owners):
            rows = torch.tensor(kept, device=source.device)
            history, scores = history[rows], scores[rows]
            states = ensemble.reorder(states, rows[:, None])
        owners, noises = [owners[row] for row in kept], [noises[row] for row in kept]
    return [sentence.best(len(wanted)) for sentence, wanted in zip(found, keys, strict=True)]


def _draw(logits: Tensor, config: DecodingConfig, noises: list[np.random.Generator]) -> Tensor:
    """Draw a piece for each row of logits [R, V]."""
    scaled = logits.double() / config.temperature
    if 0 < config.top_k < scaled.shape[1]:
        least = scaled.topk(config.top_k, dim=1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, NEVER)
    if config.top_p < 1.0:
        ordered, places = scaled.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(1)
        before = probabilities.cumsum(1) - probabilities
        ordered = ordered.masked_fill(before >= config.top_p, NEVER)
        scaled = torch.empty_like(scaled).scatter_(1, places, ordered)
    uniform = torch.from_numpy(np.stack([noise.random(logits.shape[1]) for noise in noises]))
    gumbel = -torch.log(-torch.log(uniform))
    return (scaled + gumbel.to(scaled.device)).argmax(1)
