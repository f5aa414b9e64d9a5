"""Scores of given targets: those that the search finds, for every network, alone or together."""

from __future__ import annotations

import pytest
import torch

from nmtasync.config.schema import DecodingConfig
from nmtasync.data.vocabulary import EOS
from nmtasync.decoding.beam import beam_search
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.hypothesis import Hypothesis
from nmtasync.decoding.sampling import sample
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from tests.support.networks import MODELS, SIZE, sentences

DECODING = DecodingConfig(beam_size=4, length_normalization=0.7)
LENGTHS = [5, 2, 6, 1]


def network(name: str, seed: int = 4) -> SequenceToSequence:
    torch.manual_seed(seed)
    model = build_model(MODELS[name], SIZE, SIZE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def found_by(model: SequenceToSequence | Ensemble, how: str) -> list[list[Hypothesis]]:
    source, mask = sentences(LENGTHS)
    if how == "sampling":
        keys = [[10 * row + number for number in range(4)] for row in range(len(LENGTHS))]
        return sample(model, source, mask, DECODING, keys)
    return beam_search(model, source, mask, DECODING, num_best=4)


def forced(model: SequenceToSequence | Ensemble, ids: list[list[int]]) -> list[list[float]]:
    source, mask = sentences(LENGTHS)
    return Ensemble.of(model).score(source, mask, ids)[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["beam", "sampling"])
def test_a_hypothesis_has_the_score_of_forced_decoding(name: str, how: str) -> None:
    """In float64: in float32 the two ways of computing a network differ by rounding."""
    model = network(name).double()
    found = found_by(model, how)
    for rank in range(4):
        ids = [hypotheses[rank].ids for hypotheses in found]
        for hypotheses, given, scores in zip(found, ids, forced(model, ids), strict=True):
            assert len(scores) == len(given) + 1
            assert sum(scores) == pytest.approx(hypotheses[rank].score, abs=1e-5)
            normalized = hypotheses[rank].score / len(scores) ** 0.7
            assert hypotheses[rank].normalized == pytest.approx(normalized, abs=1e-9)


def test_scores_are_those_of_the_definition_and_alone() -> None:
    """Each piece's, padding and other sentences beside it or not."""
    model = network("transformer").double()
    source, mask = sentences(LENGTHS)
    targets = [[7, 8, 9], [], [22, 4, 4, 5, 6, 7], [9]]
    together = forced(model, targets)
    for row, (length, ids) in enumerate(zip(LENGTHS, targets, strict=True)):
        alone = source[row, None, :length], mask[row, None, :length]
        assert Ensemble([model]).score(*alone, [ids])[0][0] == pytest.approx(together[row])
        with torch.no_grad():
            logits = model.logits(model(*alone, torch.tensor([[2, *ids]]))[0])
        expected = logits.float().log_softmax(1)[range(len(ids) + 1), [*ids, EOS]].tolist()
        assert together[row] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["transformer", "post-norm, rotary, SSRU", "rnn, deep"])
@pytest.mark.parametrize("how", ["beam", "sampling"])
def test_a_network_with_itself_is_that_network(name: str, how: str) -> None:
    model = network(name)
    for alone, twice in zip(
        found_by(model, how), found_by(Ensemble([model, model], [1.0, 5.0]), how), strict=True
    ):
        assert [h.ids for h in alone] == [h.ids for h in twice]
        assert [h.score for h in alone] == pytest.approx([h.score for h in twice], abs=1e-5)


@pytest.mark.parametrize("how", ["beam", "sampling"])
def test_the_score_of_an_ensemble_is_the_weighted_mean_of_its_members(how: str) -> None:
    members = [network("transformer"), network("rnn", seed=5), network("rotary", seed=6)]
    found = found_by(Ensemble(members, [3.0, 1.0, 4.0]), how)
    best = [hypotheses[0] for hypotheses in found]
    scored = [forced(member, [h.ids for h in best]) for member in members]
    for row, hypothesis in enumerate(best):
        each = [sum(scores[row]) for scores in scored]
        mean = (3 * each[0] + each[1] + 4 * each[2]) / 8
        assert hypothesis.score == pytest.approx(mean, abs=1e-5)
        assert max(each) - min(each) > 0.1


def test_positions_of_all_members_reach() -> None:
    short, long = network("post-norm, learned positions"), network("transformer")
    assert short.max_length is not None and long.max_length is None
    for members in ([short, long], [long, short]):
        assert Ensemble(members).max_length == short.max_length
    for hypotheses in found_by(Ensemble([long, short]), "beam"):
        assert all(len(h.ids) < short.max_length for h in hypotheses)


def test_attention_is_the_weighted_mean_over_the_members() -> None:
    source, mask = sentences(LENGTHS)
    targets = [[7, 8], [9], [4, 5, 6], []]
    members = [network("transformer"), network("rnn")]
    _, together = Ensemble(members, [1.0, 3.0]).score(source, mask, targets, attention=True)
    apart = [Ensemble([m]).score(source, mask, targets, attention=True)[1] for m in members]
    assert together is not None and apart[0] is not None and apart[1] is not None
    torch.testing.assert_close(together, 0.25 * apart[0] + 0.75 * apart[1])
    torch.testing.assert_close(together.sum(2), torch.ones(4, 4))
