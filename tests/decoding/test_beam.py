"""Beam search against exhaustive search, plain loops and itself."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from nmtasync.config.schema import ModelConfig
from nmtasync.data.vocabulary import BOS, EOS, PAD, UNK
from nmtasync.decoding import beam
from nmtasync.decoding.beam import Hypothesis, beam_search
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
    model: SequenceToSequence, source: torch.Tensor, mask: torch.Tensor, **changes: float
) -> list[list[Hypothesis]]:
    options = {"beam_size": 4, "length_normalization": 1.0, "max_length_ratio": 1.0, **changes}
    return beam_search(model, source, mask, **options)  # type: ignore[arg-type]


@torch.no_grad()
def forced_score(model: SequenceToSequence, source: torch.Tensor, ids: list[int]) -> float:
    """Score a translation in one pass over the whole of it."""
    target_input, target = torch.tensor([[BOS, *ids]]), torch.tensor([*ids, EOS])
    outputs = model(source[None], torch.ones_like(source[None], dtype=torch.bool), target_input)
    log_probabilities = model.logits(outputs[0]).float().log_softmax(-1)
    return float(log_probabilities[torch.arange(len(target)), target].double().sum())


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(
    kind: str, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sequences of up to 3 pieces and EOS: pruning, finishing and ranking can hide none."""
    monkeypatch.setattr(beam, "EXTRA_LENGTH", 2)
    model = make_model(kind, size=8)
    source, mask = make_source([2, 2, 2], size=8)
    sequences = [
        list(ids) for n in range(4) for ids in itertools.product(range(EOS + 1, 8), repeat=n)
    ]
    found = search(
        model, source, mask, beam_size=200, length_normalization=alpha, num_best=len(sequences)
    )
    for row, hypotheses in enumerate(found):
        scores = {tuple(ids): forced_score(model, source[row], ids) for ids in sequences}
        ranked = sorted(scores, key=lambda ids: -scores[ids] / (len(ids) + 1) ** alpha)
        assert [tuple(h.ids) for h in hypotheses] == ranked
        best = search(
            model, source[row, None], mask[row, None], beam_size=200, length_normalization=alpha
        )
        assert [h.ids for h in best[0]] == [list(ranked[0])]


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
