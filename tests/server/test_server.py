"""The server as a state machine: versions, staleness, repeats, what it refuses."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.config.load import resolve
from nmtasync.server.messages import Push
from nmtasync.server.server import Server

SIZE = 64 * 5


def make_server(num_shards: int = 2, smoothing: float | None = None) -> Server:
    config = resolve({"optimizer.smoothing": smoothing, "schedule.decay": "none"})
    return Server(torch.ones(SIZE), num_shards, config, num_workers=4)


def make_push(server: Server, worker: int = 0, sequence: int = 1, words: int = 10) -> Push:
    return Push(worker, sequence, server.versions, words, gradient_norm=1.0)


def state_of(server: Server) -> list[torch.Tensor]:
    return [vector.clone() for vector in server.vectors.values()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_reply_carries_the_parameters_after_the_push():
    server, landing = make_server(), torch.zeros(SIZE)
    reply = server.exchange(make_push(server), torch.ones(SIZE), landing)
    assert reply.applied and reply.versions == (1, 1)
    assert torch.equal(landing, server.parameters)
    assert (landing < 1).all()


def test_a_repeated_sequence_number_changes_nothing():
    server, landing = make_server(smoothing=0.1), torch.zeros(SIZE)
    push = make_push(server)
    server.exchange(push, torch.ones(SIZE), landing)
    before = state_of(server)
    reply = server.exchange(push, torch.ones(SIZE), landing)
    assert not reply.applied
    assert same(before, state_of(server))
    assert reply.versions == server.versions == (1, 1)
    assert torch.equal(landing, server.parameters), "the worker still gets its parameters"


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(norm):
    server = make_server()
    before = state_of(server)
    push = dataclasses.replace(make_push(server), gradient_norm=norm)
    reply = server.exchange(push, torch.full((SIZE,), norm), torch.zeros(SIZE))
    assert not reply.applied
    assert same(before, state_of(server))


@settings(max_examples=30)
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_staleness_is_the_number_of_pushes_of_others_since_the_fetch(order):
    server = make_server()
    fetched, sequences = dict.fromkeys(range(4), (0, 0)), dict.fromkeys(range(4), 0)
    since: dict[int, int] = dict.fromkeys(range(4), 0)
    for worker in order:
        sequences[worker] += 1
        push = dataclasses.replace(
            make_push(server, worker, sequences[worker]), base_versions=fetched[worker]
        )
        reply = server.exchange(push, torch.randn(SIZE), torch.zeros(SIZE))
        assert reply.staleness == (since[worker],) * 2
        fetched[worker] = reply.versions
        since = {other: count + 1 for other, count in since.items()}
        since[worker] = 0


def test_restored_into_another_number_of_shards_it_goes_on_bit_for_bit():
    def advance(server: Server, first: int, last: int) -> None:
        for sequence in range(first, last):
            gradient = torch.randn(SIZE, generator=torch.Generator().manual_seed(sequence))
            server.exchange(make_push(server, 0, sequence), gradient, torch.zeros(SIZE))

    whole = make_server(num_shards=2, smoothing=1e-4)
    advance(whole, 1, 9)
    first = make_server(num_shards=2, smoothing=1e-4)
    advance(first, 1, 5)
    second = make_server(num_shards=5, smoothing=1e-4)
    second.restore(
        first.vectors,
        first.versions,
        first.last_sequences,
        first.numbers(),
        first.measured.to_json(),
    )
    advance(second, 5, 9)
    assert same(state_of(whole), state_of(second))


def test_an_average_that_was_not_kept_begins_with_the_parameters():
    server = make_server(smoothing=0.1)
    server.restore({"parameters": torch.full((SIZE,), 7.0)}, [3, 3], {}, {}, {})
    assert (server.vectors["average"] == 7.0).all() and server.versions == (3, 3)


@pytest.mark.parametrize("merged", [1, 2])
def test_the_average_weighs_updates_by_their_words(merged):
    """An update that a rule merges from several pushes has the words of all of them."""
    settings = {"asynchronous.rule": "buffer", "asynchronous.buffer_pushes": merged}
    settings |= {"schedule.learning_rate": 0.1, "schedule.warmup_updates": 0}
    config = resolve({"optimizer.smoothing": 1e-4, "schedule.decay": "none", **settings})
    server = Server(torch.ones(SIZE), 2, config, num_workers=2)
    words = [10, 30, 10, 90, 200, 40, 60, 20]
    average = torch.ones(SIZE)
    for sequence, number in enumerate(words, start=1):
        gradient = torch.randn(SIZE, generator=torch.Generator().manual_seed(sequence))
        server.exchange(make_push(server, 0, sequence, number), gradient, torch.zeros(SIZE))
        if sequence % merged == 0:
            of_update = sum(words[sequence - merged : sequence])
            weight = 9 / (sum(words[:sequence]) / of_update + 10)
            average += weight * (server.parameters - average)
    torch.testing.assert_close(server.vectors["average"], average)


def test_words_of_pushes_for_some_shards_count_for_these():
    """As where a worker's own shards take each batch, and the others the window of two."""
    server = make_server(num_shards=4, smoothing=1e-4)
    for sequence, (shards, words) in enumerate([((1,), 10), ((1,), 20), ((0, 2, 3), 30)], start=1):
        push = dataclasses.replace(make_push(server, 0, sequence, words), shards=shards)
        server.exchange(push, torch.ones(SIZE), torch.zeros(SIZE))
    assert server.measured.seen_words == 30


def test_words_below_zero_are_refused():
    """An average would take them for a weight without bounds."""
    server = make_server()
    content = {**server.measured.to_json(), "seen_words": -1.0}
    with pytest.raises(ValueError, match="seen_words"):
        server.measured.restore(content)
