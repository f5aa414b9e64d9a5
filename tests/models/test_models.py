"""Every network keeps the promises of the one interface."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from nmtasync.config.schema import ModelConfig
from nmtasync.data import vocabulary
from nmtasync.errors import UserError
from nmtasync.models import embeddings, sequence_to_sequence
from nmtasync.models.build import build_model
from nmtasync.models.loss import loss_sums
from nmtasync.models.sequence_to_sequence import Encoded, SequenceToSequence
from tests.support.networks import DEEP_RNN, SIZE, TINY, TINY_RNN, sentences, slopes


def step_through(
    model: SequenceToSequence, encoded: Encoded, target_input: torch.Tensor
) -> torch.Tensor:
    state, logits = model.start(encoded), []
    for position in range(target_input.shape[1]):
        step, state = model.decode_step(target_input[:, position], state)
        logits.append(step)
    return torch.stack(logits, dim=1)


@torch.no_grad()
def test_step_by_step_equals_whole_targets(model: SequenceToSequence) -> None:
    source, mask = sentences([5, 2, 7])
    target_input, _ = sentences([6, 6, 6], seed=2)
    whole = model.logits(model(source, mask, target_input))
    stepped = step_through(model, model.encode(source, mask), target_input)
    torch.testing.assert_close(stepped, whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_padding_changes_nothing(model: SequenceToSequence) -> None:
    source, mask = sentences([5, 2, 7])
    target_input, _ = sentences([6, 6, 6], seed=2)
    together = model(source, mask, target_input)
    for row, length in enumerate([5, 2, 7]):
        alone = model(
            source[row : row + 1, :length], mask[row : row + 1, :length], target_input[row, None]
        )
        torch.testing.assert_close(together[row, None], alone, rtol=0, atol=1e-10)
    noisy = torch.where(mask, source, 9)
    assert torch.equal(model(noisy, mask, target_input), together)


@torch.no_grad()
def test_no_position_sees_later_ones(model: SequenceToSequence) -> None:
    source, mask = sentences([5, 3])
    target_input, _ = sentences([6, 6], seed=2)
    other = target_input.clone()
    other[:, 4:] = (other[:, 4:] + 1) % SIZE
    before, after = model(source, mask, target_input), model(source, mask, other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


@torch.no_grad()
@pytest.mark.parametrize(
    ("rows", "histories"),
    [
        ([[1, 0, 1], [5, 5, 4]], [(0, 5), (0, 4), (0, 5), (2, 9), (2, 9), (2, 8)]),
        ([[4, 5, 4], [3, 3, 2]], [(2, 8), (2, 9), (2, 8), (1, 7), (1, 7), (1, 6)]),
    ],
    ids=["the last moves up", "the last takes the place of the first"],
)
def test_reordered_rows_go_on_as_if_alone(
    model: SequenceToSequence, rows: list[list[int]], histories: list[tuple[int, int]]
) -> None:
    """Rows are repeated, swapped and dropped, and a sentence leaves; histories follow them."""
    source, mask = sentences([5, 2, 7])
    state = model.start(model.encode(source, mask))
    _, state = model.decode_step(torch.tensor([2, 2, 2]), state)
    state = model.reorder(state, torch.tensor([[0, 0], [1, 1], [2, 2]]))
    _, state = model.decode_step(torch.tensor([4, 5, 6, 7, 8, 9]), state)
    state = model.reorder(state, torch.tensor(rows))
    tokens = torch.tensor([10, 11, 12, 13, 14, 15])
    logits, _ = model.decode_step(tokens, state)
    for row, (sentence, second) in enumerate(histories):
        target_input = torch.tensor([[2, second, int(tokens[row])]])
        whole = model(source[sentence, None], mask[sentence, None], target_input)
        torch.testing.assert_close(model.logits(whole[0, -1]), logits[row], rtol=0, atol=1e-10)


def test_gradients_equal_finite_differences(model: SequenceToSequence) -> None:
    """The whole network with its loss, along random directions of all parameters."""
    source, mask = sentences([4, 2])
    target, _ = sentences([3, 2], seed=2)
    target_input = torch.cat((torch.full((2, 1), 2), target[:, :-1]), dim=1)

    def loss() -> torch.Tensor:
        real_targets = target.flatten().nonzero().squeeze(1)
        return loss_sums(model, model(source, mask, target_input), target, real_targets, 0.1)[0]

    loss().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    for name, slope, expected in slopes(model, loss):
        assert slope == pytest.approx(expected, abs=1e-6), name


@torch.no_grad()
def test_dropout_acts_while_training_only(model: SequenceToSequence) -> None:
    source, mask = sentences([5, 3])
    quiet = model(source, mask, source)
    assert torch.equal(quiet, model(source, mask, source))
    model.train()
    assert not torch.allclose(model(source, mask, source), quiet)


@pytest.mark.parametrize("config", [TINY, TINY_RNN], ids=["transformer", "rnn"])
@pytest.mark.parametrize(("tied", "matrices"), [("all", 1), ("target", 2), ("none", 3)])
def test_tied_matrices_are_one_parameter(config: ModelConfig, tied: str, matrices: int) -> None:
    target_size = SIZE if tied == "all" else SIZE + 6
    network = build_model(dataclasses.replace(config, tied_embeddings=tied), SIZE, target_size)
    sizes = [p.shape for p in network.parameters() if p.shape[0] in (SIZE, target_size)]
    assert sum(len(shape) == 2 for shape in sizes) == matrices
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    assert sorted(names) == sorted(network.state_dict())
    assert len(set(names)) == len(list(network.parameters()))
    source, mask = sentences([3])
    outputs = network(source, mask, source)
    assert network.logits(outputs).shape == (1, 3, target_size)


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 10, "heads": 4},
        {"dimension": 9, "heads": 1},
        {"dimension": 6, "heads": 2, "positions": "rotary"},
    ],
    ids=["heads don't divide it", "odd", "odd heads, rotary"],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^model\.dimension: "):
        build_model(dataclasses.replace(TINY, **changes), SIZE, SIZE)


@pytest.mark.parametrize("config", [TINY, DEEP_RNN], ids=["transformer", "rnn"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_words_are_dropped_whole_while_training(config: ModelConfig, side: str) -> None:
    rates = {f"dropout_{side}_words": 0.5}
    embeddings = build_model(dataclasses.replace(config, **rates), SIZE, SIZE).embeddings
    other = {"source": "target", "target": "source"}[side]
    ids, _ = sentences([200, 200])

    def embed(side: str, training: bool) -> torch.Tensor:
        embedded: torch.Tensor = getattr(embeddings.train(training), f"embed_{side}")(ids)
        return embedded

    assert torch.equal(embed(other, True), embed(other, False))
    dropped, whole = embed(side, True), embed(side, False)
    kept = dropped.abs().sum(2, keepdim=True) > 0
    torch.testing.assert_close(dropped, whole * kept * 2.0)
    assert 150 < int(kept.sum()) < 250


def test_sharing_everything_needs_one_vocabulary() -> None:
    with pytest.raises(UserError, match="23 and 24 pieces"):
        build_model(TINY, SIZE, SIZE + 1)


def test_the_seed_decides_on_the_parameters() -> None:
    def parameters(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = build_model(TINY, SIZE, SIZE)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert torch.equal(parameters(1), parameters(1))
    assert not torch.equal(parameters(1), parameters(2))
    assert parameters(1).dtype == torch.float32


def test_the_encoder_knows_the_order_of_its_input(model: SequenceToSequence) -> None:
    source, mask = sentences([6])
    states = model.encode(source, mask).states
    turned = model.encode(source.flip(1), mask).states.flip(1)
    assert not torch.allclose(states, turned)


def test_padding_has_the_vocabulary_s_id() -> None:
    assert sequence_to_sequence.PAD == vocabulary.PAD
    assert embeddings.BOS == vocabulary.BOS


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, TINY_RNN], ids=["transformer", "rnn"])
@pytest.mark.parametrize("zero_start", [True, False])
def test_a_zero_start_has_no_embedding(config: ModelConfig, zero_start: bool) -> None:
    changed = dataclasses.replace(config, zero_start=zero_start, tied_embeddings="none")
    network = build_model(changed, SIZE, SIZE).eval()
    source, mask = sentences([5])
    target_input = torch.tensor([[vocabulary.BOS, 7, 9]])
    before = network(source, mask, target_input)
    network.embeddings.target[vocabulary.BOS] += 1.0
    assert torch.equal(network(source, mask, target_input), before) == zero_start
