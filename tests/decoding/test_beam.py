"""Beam search against exhaustive search, plain loops and itself."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import pytest
import torch

from nmtasync.config.schema import DecodingConfig, ModelConfig
from nmtasync.data.vocabulary import BOS, EOS, PAD, UNK
from nmtasync.decoding import constraints
from nmtasync.decoding.beam import beam_search
from nmtasync.decoding.hypothesis import Hypothesis, TextOf
from nmtasync.models.build import build_model
from nmtasync.models.embeddings import Embeddings
from nmtasync.models.sequence_to_sequence import DecoderState, Encoded, SequenceToSequence

SIZE = 13
CONFIGS = {
    kind: ModelConfig(type=kind, dimension=8, encoder_layers=1, decoder_layers=1)
    for kind in ("transformer", "rnn")
}


def make_model(kind: str, size: int = SIZE, seed: int = 3) -> SequenceToSequence:
    torch.manual_seed(seed)
    model = build_model(CONFIGS[kind], size, size).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> SequenceToSequence:
    return make_model(request.param)


def make_source(lengths: list[int], size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, size, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids * mask, mask


def search(
    model: SequenceToSequence,
    source: torch.Tensor,
    mask: torch.Tensor,
    num_best: int = 1,
    prefixes: list[list[int]] | None = None,
    text_of: TextOf | None = None,
    **changes: Any,
) -> list[list[Hypothesis]]:
    config = DecodingConfig(**{"beam_size": 4, "max_length_ratio": 1.0, **changes})
    given = {"num_best": num_best, "prefixes": prefixes, "text_of": text_of}
    return beam_search(model, source, mask, config, **given)  # type: ignore[arg-type]


@torch.no_grad()
def forced_score(model: SequenceToSequence, source: torch.Tensor, ids: list[int]) -> float:
    """Score a translation in one pass over the whole of it."""
    target_input, target = torch.tensor([[BOS, *ids]]), torch.tensor([*ids, EOS])
    outputs = model(source[None], torch.ones_like(source[None], dtype=torch.bool), target_input)
    log_probabilities = model.logits(outputs[0]).float().log_softmax(-1)
    return float(log_probabilities[torch.arange(len(target)), target].double().sum())


def repeats(ids: tuple[int, ...], size: int) -> bool:
    ngrams = [ids[i : i + size] for i in range(len(ids) - size + 1)]
    return size > 0 and len(set(ngrams)) < len(ngrams)


@functools.cache
def scores_of_all_sequences(kind: str) -> list[dict[tuple[int, ...], float]]:
    """Of up to 3 pieces out of the four of `make_model(kind, size=8)`, for three sources."""
    model, (source, _) = make_model(kind, size=8), make_source([2, 2, 2], size=8)
    sequences = [ids for n in range(4) for ids in itertools.product(range(EOS + 1, 8), repeat=n)]
    return [{ids: forced_score(model, row, list(ids)) for ids in sequences} for row in source]


PENALTIES = {
    "average": lambda length, alpha: length**alpha,
    "gnmt": lambda length, alpha: ((5 + length) / 6) ** alpha,
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("penalty", "alpha"),
    [("average", 0.0), ("average", 0.6), ("average", 1.0), ("gnmt", 0.6), ("gnmt", 3.0)],
)
@pytest.mark.parametrize(
    ("prefix", "min_length", "ngram"),
    [((), 0, 0), ((), 2, 0), ((6,), 0, 0), ((7, 5), 3, 0), ((), 0, 1), ((6,), 2, 1), ((), 3, 2)],
)
def test_a_wide_beam_finds_what_exhaustive_search_finds(
    kind: str,
    penalty: str,
    alpha: float,
    prefix: tuple[int, ...],
    min_length: int,
    ngram: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sequences of up to 3 pieces and EOS: pruning, finishing and ranking can hide none."""
    monkeypatch.setattr(constraints, "EXTRA_LENGTH", 2)
    model = make_model(kind, size=8)
    source, mask = make_source([2, 2, 2], size=8)
    options = {
        "beam_size": 200,
        "length_penalty_type": penalty,
        "length_normalization": alpha,
        "min_length": min_length,
        "no_repeat_ngram_size": ngram,
        "prefixes": [list(prefix)] * 3,
    }
    found = search(model, source, mask, num_best=200, **options)
    for hypotheses, every in zip(found, scores_of_all_sequences(kind), strict=True):
        scores = {
            ids: score
            for ids, score in every.items()
            if len(ids) >= min_length and ids[: len(prefix)] == prefix and not repeats(ids, ngram)
        }
        divisor = PENALTIES[penalty]
        ranked = sorted(scores, key=lambda ids: -scores[ids] / divisor(len(ids) + 1, alpha))
        assert [tuple(h.ids) for h in hypotheses] == ranked
    assert [h[0] for h in search(model, source, mask, **options)] == [h[0] for h in found]


def test_each_sentence_of_a_batch_has_a_prefix_of_its_own(model: SequenceToSequence) -> None:
    lengths, prefixes = [5, 2, 9, 1], [[7, 4, 9, 4, 4], [], [12], [4] * 15]
    source, mask = make_source(lengths)
    together = search(model, source, mask, prefixes=prefixes)
    for row, (length, prefix) in enumerate(zip(lengths, prefixes, strict=True)):
        assert together[row][0].ids[: len(prefix)] == prefix
        alone = source[row, None, :length], mask[row, None, :length]
        assert search(model, *alone, prefixes=[prefix])[0][0].ids == together[row][0].ids
    assert together[1][0].ids == search(model, source, mask)[1][0].ids


def test_hypotheses_of_one_text_are_listed_once(model: SequenceToSequence) -> None:
    """The best of them stands for all, and the search goes on until there are enough texts."""

    def text_of(ids: list[int]) -> str:
        return str(len(ids))  # all translations of one length spell the same

    source, mask = make_source([5, 2, 9, 1])
    every = search(model, source, mask, num_best=20, beam_size=20)
    for number in (1, 3, 20):
        options = {"beam_size": 20, "num_best": number, "text_of": text_of}
        for hypotheses, known in zip(search(model, source, mask, **options), every, strict=True):
            best: dict[str, Hypothesis] = {}
            for hypothesis in known:
                best.setdefault(text_of(hypothesis.ids), hypothesis)
            assert hypotheses == list(best.values())[:number]
    assert any(len({text_of(h.ids) for h in known}) < 20 for known in every)


def test_what_the_greatest_length_has_ended_is_known(model: SequenceToSequence) -> None:
    source, mask = make_source([5, 2, 9, 1])
    for row, hypotheses in enumerate(search(model, source, mask, num_best=4)):
        limit = [5, 2, 9, 1][row] + constraints.EXTRA_LENGTH
        assert [h.at_limit for h in hypotheses] == [len(h.ids) + 1 == limit for h in hypotheses]
    shortest = search(model, source, mask, min_length=100)
    assert all(hypotheses[0].at_limit for hypotheses in shortest), "the limit is the stronger"


def test_scores_are_those_of_forced_decoding(model: SequenceToSequence) -> None:
    lengths = [5, 2, 9, 1]
    source, mask = make_source(lengths)
    results = search(model, source, mask, num_best=4, length_normalization=0.7)
    for row, hypotheses in enumerate(results):
        assert len(hypotheses) == 4
        assert len({tuple(h.ids) for h in hypotheses}) == 4
        normalized = [h.normalized for h in hypotheses]
        assert normalized == sorted(normalized, reverse=True)
        for hypothesis in hypotheses:
            expected = forced_score(model, source[row, : lengths[row]], hypothesis.ids)
            assert hypothesis.score == pytest.approx(expected, abs=1e-5)
            length = len(hypothesis.ids) + 1
            assert hypothesis.normalized == pytest.approx(expected / length**0.7, abs=1e-5)


@torch.no_grad()
def test_a_beam_of_one_takes_the_best_piece_each_time(model: SequenceToSequence) -> None:
    source, mask = make_source([5, 2, 9, 1])
    results = search(model, source, mask, beam_size=1)
    for row, length in enumerate([5, 2, 9, 1]):
        ids: list[int] = []
        while True:
            target_input = torch.tensor([[BOS, *ids]])
            outputs = model(source[row, None, :length], mask[row, None, :length], target_input)
            logits = model.logits(outputs[0, -1])
            logits[[PAD, UNK, BOS]] = float("-inf")
            best = int(logits.argmax())
            if best == EOS or len(ids) == length + 10 - 1:
                break
            ids.append(best)
        assert results[row][0].ids == ids


@pytest.mark.parametrize("beam_size", [1, 3])
def test_translations_do_not_depend_on_the_batch(model: SequenceToSequence, beam_size: int) -> None:
    lengths = [5, 2, 9, 1, 7, 3]
    source, mask = make_source(lengths)
    together = search(model, source, mask, beam_size=beam_size)
    lengths_found = {len(hypotheses[0].ids) for hypotheses in together}
    assert len(lengths_found) > 1, "sentences shall leave the batch at different steps"
    for row, length in enumerate(lengths):
        alone = search(
            model, source[row, None, :length], mask[row, None, :length], beam_size=beam_size
        )
        assert alone[0][0].ids == together[row][0].ids
        assert alone[0][0].score == pytest.approx(together[row][0].score, abs=1e-5)


class Scripted(SequenceToSequence):
    """Ends at once with probability 0.4; or begins with 4 (0.13), goes on so and ends after 7."""

    def encode(self, source: torch.Tensor, source_mask: torch.Tensor) -> Encoded:
        return Encoded(source, source_mask)

    def start(self, encoded: Encoded) -> Generated:
        return Generated(0)

    def decode_step(
        self, tokens: torch.Tensor, state: DecoderState
    ) -> tuple[torch.Tensor, Generated]:
        assert isinstance(state, Generated)
        probabilities = torch.full((len(tokens), SIZE), 1e-4)
        if state.pieces == 0:
            probabilities[:, 5:] = 0.47 / (SIZE - 5)
            probabilities[:, [EOS, 4]] = torch.tensor([0.4, 0.13])
        else:
            probabilities[:, 4 if state.pieces < 7 else EOS] = 1.0
        return probabilities.log(), Generated(state.pieces + 1)

    def reorder(self, state: DecoderState, rows: torch.Tensor) -> DecoderState:
        return state

    def decode(self, encoded: Encoded, target_input: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode_with_attention(
        self, encoded: Encoded, target_input: torch.Tensor, layer: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Generated(DecoderState):
    pieces: int


def test_search_does_not_end_while_a_longer_hypothesis_can_still_win() -> None:
    """After one piece it is worse, at any length up to 2; at its own length it is better."""
    model = Scripted(Embeddings(ModelConfig(dimension=2, tied_embeddings="all"), SIZE, SIZE))
    source, mask = make_source([3])
    assert search(model, source, mask, beam_size=2)[0][0].ids == [4] * 7
    not_normalized = search(model, source, mask, beam_size=2, length_normalization=0.0)
    assert not_normalized[0][0].ids == []


def test_a_model_that_never_ends_is_stopped_by_the_source_s_length() -> None:
    model = make_model("transformer")
    with torch.no_grad():
        model.embeddings.output_bias[EOS] = -1e4
    source, mask = make_source([4, 7])
    for beam_size in (1, 3):
        results = search(model, source, mask, beam_size=beam_size, max_length_ratio=1.5)
        assert [len(hypotheses[0].ids) for hypotheses in results] == [6 + 9, 10 + 9]


def test_control_pieces_are_never_generated() -> None:
    model = make_model("transformer")
    with torch.no_grad():
        model.embeddings.output_bias[[PAD, UNK, BOS]] = 1e4
    source, mask = make_source([4, 7])
    for hypotheses in search(model, source, mask, num_best=4):
        for hypothesis in hypotheses:
            assert min(hypothesis.ids, default=EOS + 1) > EOS


def test_a_broken_model_gives_empty_translations() -> None:
    """Validation of a training that has diverged must end, not hang or crash."""
    model = make_model("transformer")
    with torch.no_grad():
        model.embeddings.output_bias.fill_(float("nan"))
    source, mask = make_source([4, 7])
    for beam_size in (1, 3):
        results = search(model, source, mask, beam_size=beam_size)
        assert [[h.ids for h in hypotheses] for hypotheses in results] == [[[]], [[]]]


@torch.no_grad()
def plain_beam_search(
    model: SequenceToSequence, source: torch.Tensor, slots: int, alpha: float, limit: int
) -> list[tuple[list[int], float]]:
    """The definition: one sentence, no caches, no batch, and no early end."""
    mask = torch.ones_like(source[None], dtype=torch.bool)
    live: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float]] = []
    while live:
        candidates = []
        for ids, score in live:
            outputs = model(source[None], mask, torch.tensor([[BOS, *ids]]))
            log_probabilities = model.logits(outputs[0, -1]).float().log_softmax(-1).tolist()
            pieces = range(EOS, SIZE) if len(ids) + 1 < limit else [EOS]
            candidates += [([*ids, piece], score + log_probabilities[piece]) for piece in pieces]
        candidates.sort(key=lambda candidate: -candidate[1])
        taken = candidates[: slots - len(finished)]
        live = [(ids, score) for ids, score in taken if ids[-1] != EOS]
        finished += [(ids[:-1], score) for ids, score in taken if ids[-1] == EOS]
    return sorted(finished, key=lambda f: -f[1] / (len(f[0]) + 1) ** alpha)


@pytest.mark.parametrize(("slots", "num_best"), [(2, 2), (5, 1), (5, 3)])
def test_batched_search_is_the_plain_one(
    model: SequenceToSequence, slots: int, num_best: int
) -> None:
    lengths = [5, 2, 9, 1]
    source, mask = make_source(lengths)
    results = search(model, source, mask, beam_size=slots, num_best=num_best)
    for row, length in enumerate(lengths):
        expected = plain_beam_search(model, source[row, :length], slots, 1.0, length + 10)
        assert [h.ids for h in results[row]] == [ids for ids, _ in expected[:num_best]]


def test_fields_of_a_hypothesis_are_plain_numbers(model: SequenceToSequence) -> None:
    source, mask = make_source([3])
    hypothesis = search(model, source, mask)[0][0]
    assert all(type(i) is int for i in hypothesis.ids)
    assert type(dataclasses.asdict(hypothesis)["score"]) is float
