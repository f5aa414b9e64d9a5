"""Sampling: what is drawn, from which pieces, and on what it depends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.vocabulary import EOS
from nmtasync.decoding.beam import beam_search
from nmtasync.decoding.hypothesis import Hypothesis
from nmtasync.decoding.sampling import sample
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from tests.support.networks import MODELS, SIZE, sentences

LENGTHS = [5, 2, 9, 1, 7, 3]


@pytest.fixture(params=["transformer", "deep encoder, SSRU", "rnn"])
def model(request: pytest.FixtureRequest) -> SequenceToSequence:
    torch.manual_seed(4)
    network = build_model(MODELS[request.param], SIZE, SIZE).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def draw(
    model: SequenceToSequence,
    source: torch.Tensor,
    mask: torch.Tensor,
    keys: list[list[int]],
    **changes: Any,
) -> list[list[Hypothesis]]:
    return sample(model, source, mask, DecodingConfig(sampling=True, **changes), keys)


def test_samples_depend_on_their_key_alone(model: SequenceToSequence) -> None:
    """Not on the batch, nor on the order in it, nor on how many are drawn beside them."""
    source, mask = sentences(LENGTHS)
    keys = [[100 * row, 100 * row + 1, 100 * row + 2] for row in range(len(LENGTHS))]
    together = draw(model, source, mask, keys)
    turned = draw(model, source.flip(0), mask.flip(0), keys[::-1])[::-1]
    for row, length in enumerate(LENGTHS):
        place = source[row, None, :length], mask[row, None, :length]
        alone = [draw(model, *place, [[key]])[0][0] for key in keys[row]]
        expected = sorted((h.ids for h in alone), key=str)
        assert sorted((h.ids for h in together[row]), key=str) == expected
        assert sorted((h.ids for h in turned[row]), key=str) == expected
    assert len({str(h.ids) for hypotheses in together for h in hypotheses}) > 12


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 0.001}])
def test_without_choice_it_is_greedy_search(
    model: SequenceToSequence, changes: dict[str, Any]
) -> None:
    source, mask = sentences(LENGTHS)
    drawn = draw(model, source, mask, [[row] for row in range(len(LENGTHS))], **changes)
    greedy = beam_search(model, source, mask, DecodingConfig(beam_size=1))
    assert [h[0].ids for h in drawn] == [h[0].ids for h in greedy]
    for ours, theirs in zip(drawn, greedy, strict=True):
        assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 5},
        {"top_p": 0.7},
        {"temperature": 2.0, "top_k": 8, "top_p": 0.6},
    ],
)
def test_pieces_are_drawn_by_their_probabilities(changes: dict[str, Any]) -> None:
    """The first piece of 4,000 translations, against probabilities computed one by one."""
    torch.manual_seed(4)
    network = build_model(MODELS["rnn"], SIZE, SIZE).eval()
    source, mask = sentences([4])
    with torch.no_grad():
        network.embeddings.output_bias.copy_(torch.randn(SIZE))
        logits = network.logits(network(source, mask, torch.tensor([[2]]))[0, 0]).tolist()
    exponents = {
        i: logits[i] / changes.get("temperature", 1.0) for i in range(SIZE) if i > 2
    }  # neither PAD, UNK nor BOS
    ranked = sorted(exponents, key=lambda i: -exponents[i])[: changes.get("top_k", SIZE)]
    weights = torch.tensor([exponents[i] for i in ranked]).softmax(0).tolist()
    kept, mass = [], 0.0
    for piece, weight in zip(ranked, weights, strict=True):
        if mass < changes.get("top_p", 1.0):
            kept.append((piece, weight))
            mass += weight
    keys = [list(range(4000))]
    found = sample(network, source, mask, DecodingConfig(max_length_ratio=0.1, **changes), keys)
    drawn = [(h.ids or [EOS])[0] for h in found[0]]
    assert {*drawn} <= {piece for piece, _ in kept}
    for piece, weight in kept:
        expected = weight / mass
        deviation = (expected * (1 - expected) / len(drawn)) ** 0.5
        assert abs(drawn.count(piece) / len(drawn) - expected) < 4 * deviation, piece


def test_constraints_hold_for_samples(model: SequenceToSequence) -> None:
    source, mask = sentences(LENGTHS)
    keys, prefixes = [[row] for row in range(len(LENGTHS))], [[4, 5], [], [6], [], [], [7] * 12]
    config = DecodingConfig(min_length=9, no_repeat_ngram_size=2, max_length_ratio=1.0)
    found = sample(model, source, mask, config, keys, prefixes=prefixes)
    for row, (hypothesis,) in enumerate(found):
        ids, prefix = hypothesis.ids, prefixes[row]
        assert ids[: len(prefix)] == prefix and len(ids) >= 9 and min(ids) > EOS
        ngrams = list(zip(ids[len(prefix) :], ids[len(prefix) + 1 :], strict=False))
        assert len(set(ngrams)) == len(ngrams)
        assert hypothesis.at_limit == (len(ids) + 1 == max(LENGTHS[row], len(prefix)) + 10)


def test_a_broken_model_gives_empty_translations() -> None:
    torch.manual_seed(4)
    network = build_model(MODELS["rnn"], SIZE, SIZE).eval()
    with torch.no_grad():
        network.embeddings.output_bias.fill_(float("nan"))
    source, mask = sentences([4, 7])
    assert [h[0].ids for h in draw(network, source, mask, [[1], [2]])] == [[], []]
