"""The noise scale against gradients whose signal and noise are known, and its way through a run."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from nmtasync.server.messages import Push
from nmtasync.server.noise_scale import MIN_PAIRS, PAIR_EVERY, GradientSums
from nmtasync.server.server import Server
from tests.support.runs import events, final_state, simulate, train_toy
from tests.support.servers import SIZE, make_server, restore_from

SIGNAL, NOISE = 0.25, 400.0
"""|G|² and tr Σ of the gradients below: a noise scale of 1,600 words."""


def push_noisy(server: Server, number: int, seed: int = 0, words: tuple[int, ...] = (50,)) -> None:
    """Push gradients of words whose mean and covariance are known, by three workers in turn."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.full((SIZE,), math.sqrt(SIGNAL / SIZE))
    turns = itertools.islice(zip(itertools.cycle(range(3)), itertools.cycle(words)), number)
    landing = torch.zeros(SIZE)
    clip = server.shards[0].rule.config.optimizer.clip_norm  # type: ignore[attr-defined]
    for worker, count in turns:
        noise = torch.randn(SIZE, generator=generator) * math.sqrt(NOISE / SIZE / count)
        norm = float((mean + noise).norm())
        payload = count * (mean + noise) * min(1.0, (clip or math.inf) / norm)
        sequence = server.last_sequences.get(worker, 0) + 1
        server.exchange(Push(worker, sequence, server.versions, count, norm), payload, landing)


@pytest.mark.parametrize("clip_norm", [None, 2.0], ids=["whole", "clipped"])
@pytest.mark.parametrize("words", [(50,), (20, 200)], ids=["alike", "of two sizes"])
def test_the_noise_scale_of_known_gradients_is_found(clip_norm, words):
    """With (50,) the squared norm is 8.25, so all are clipped; the workers say what they were."""
    server = make_server(optimizer__clip_norm=clip_norm)
    push_noisy(server, 8000, words=words)
    assert server.measured.noise.words == pytest.approx(NOISE / SIGNAL, rel=0.2)
    assert server.measured.noise.all.signal == pytest.approx(SIGNAL, rel=0.2)
    by_worker = server.measured.noise.words_by_worker()
    assert by_worker == pytest.approx(dict.fromkeys(range(3), NOISE / SIGNAL), rel=0.25)


def test_it_is_unknown_until_enough_pairs_were_seen_and_where_there_is_no_signal():
    server = make_server()
    push_noisy(server, PAIR_EVERY * (MIN_PAIRS - 1) + 2)
    assert server.measured.noise.all.pairs == MIN_PAIRS - 1 + 1
    early = make_server()
    push_noisy(early, PAIR_EVERY * (MIN_PAIRS - 1))
    assert early.measured.noise.words is None
    sums = GradientSums()
    sums.add(-3.0, [9.0, 9.0], [2, 2])
    early.measured.noise.all = sums
    sums.pairs = MIN_PAIRS
    assert early.measured.noise.words is None


def test_a_pair_is_one_push_and_the_next_one_in_five():
    server = make_server()
    seen = []
    for _ in range(12):
        push_noisy(server, 1)
        seen.append(server.measured.noise.all.pairs)
    assert seen == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]


def test_three_gradients_of_one_moment_are_three_pairs():
    """Of the squares of the gradients and of their sum: as ranks know them."""
    gradients = torch.randn(3, 40, generator=torch.Generator().manual_seed(3)).double()
    words = [3, 5, 7]
    squares = [float(g.square().sum()) for g in gradients]
    pairs = list(itertools.combinations(range(3), 2))
    product = sum(float(gradients[a] @ gradients[b]) for a, b in pairs)
    total = float(gradients.sum(0).square().sum())
    assert (total - sum(squares)) / 2 == pytest.approx(product)
    sums = GradientSums()
    sums.add((total - sum(squares)) / 2, squares, words)
    signal = product / sum(words[a] * words[b] for a, b in pairs)
    assert sums.signal == pytest.approx(signal)
    noise = (sum(squares) - signal * sum(w * w for w in words)) / sum(words)
    assert sums.noise(signal) == pytest.approx(noise)


@pytest.mark.parametrize("num_shards", [2, 3])
def test_it_goes_on_from_a_checkpoint_between_the_two_of_a_pair(num_shards):
    """The first of the pair is in it, where windows depend on what is measured."""
    auto = {"asynchronous__optimizer_delay": "auto"}
    first = make_server(**auto)
    push_noisy(first, PAIR_EVERY * 5 + 1)
    assert first.measured.noise.waiting is not None
    second = make_server(num_shards=num_shards, **auto)
    restore_from(second, first)
    for server in (first, second):
        push_noisy(server, 1, seed=5)
    alike = first.measured.noise.to_json() == second.measured.noise.to_json()
    assert alike == (num_shards == 2), "other shards can't go on with a pair"


def test_elsewhere_a_checkpoint_gives_the_pair_up_in_both_runs():
    server = make_server()
    push_noisy(server, 1)
    assert "noisy_gradient" not in server.vectors
    server.measured.noise.give_up_cut_pair()
    push_noisy(server, 1)
    assert server.measured.noise.all.pairs == 0


@pytest.mark.parametrize(
    "options",
    [
        {"asynchronous__drop_rate": 0.9},
        {
            "asynchronous__local_optimizer_batches": "always",
            "asynchronous__local_push": "delta",
            "asynchronous__optimizer_delay": 2,
        },
    ],
    ids=["sparse", "deltas"],
)
def test_what_is_no_whole_gradient_is_not_measured(options):
    server = make_server(**options)
    push_noisy(server, 10)
    assert server.measured.noise.room == [] and server.measured.noise.all.pairs == 0


def test_a_run_reports_it(toy_run):
    simulate(toy_run, simulation__speeds="1,1", training__max_updates=160)
    last = events(toy_run, "train")[-1]
    _, state = final_state(toy_run)
    sums = GradientSums(**state["measured"]["noise"]["all"])
    assert sums.pairs >= MIN_PAIRS
    assert last["noise_scale"] == pytest.approx(sums.noise(sums.signal) / sums.signal)
    assert set(last["noise_scale_by_worker"]) == {"0", "1"}
    assert last["batches_per_push"] == 1.0


@pytest.mark.processes
def test_ranks_measure_it_as_a_server_does(toy_run):
    """Of the same batches, within what a few dozen pairs tell."""
    options = {"training__max_updates": 300, "training__validate_every": 10**9}
    summary = train_toy(
        toy_run, asynchronous__driver="synchronous", asynchronous__devices="cpu,cpu", **options
    )
    assert summary.noise is not None and summary.noise.workers == 1
    simulated = simulate(
        toy_run, resume=False, simulation__speeds="1,1", simulation__synchronous=True, **options
    )
    assert simulated.noise is not None
    assert 0.5 < summary.noise.scale_words / simulated.noise.scale_words < 2
    words = summary.target_words / summary.updates
    assert summary.noise.update_words == pytest.approx(words)
    hint = 0.1 * summary.noise.scale_words / words
    assert summary.noise.larger_batches == pytest.approx(hint)
