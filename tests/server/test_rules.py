"""The rules against independent references, and their composition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nmtasync.config.load import resolve
from nmtasync.errors import UserError
from nmtasync.optim.adam import Adam
from nmtasync.optim.update import Update
from nmtasync.server.messages import Push
from nmtasync.server.server import Server
from tests.support.servers import DELTAS, RULES, SGD, SIZE, gradients, make_server, restore_from


class Pushers:
    """Workers that fetch, and push gradients that the test gives."""

    def __init__(self, server: Server, num_workers: int = 3) -> None:
        self.server = server
        self.landing = [torch.zeros(SIZE) for _ in range(num_workers)]
        self.versions = [server.fetch(self.landing[w], w) for w in range(num_workers)]
        self.sequences = [0] * num_workers

    def push(self, worker: int, gradient: torch.Tensor, words: int = 1):
        self.sequences[worker] += 1
        push = Push(worker, self.sequences[worker], self.versions[worker], words, 1.0)
        reply = self.server.exchange(push, gradient.clone(), self.landing[worker])
        self.versions[worker] = reply.versions
        return reply


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (
            {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1},
            lambda p: torch.optim.AdamW(
                [p], lr=1e-3, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.1, fused=True
            ),
        ),
        (
            {"optimizer.name": "sgd"},
            lambda p: torch.optim.SGD([p], lr=1e-3, momentum=0.9, nesterov=True),
        ),
        (
            {"optimizer.name": "sgd", "optimizer.nesterov": False},
            lambda p: torch.optim.SGD([p], lr=1e-3, momentum=0.9),
        ),
        (SGD, lambda p: torch.optim.SGD([p], lr=1e-3)),
    ],
)
def test_the_optimizers_are_torchs(options, reference):
    server = make_server(**{key.replace(".", "__"): value for key, value in options.items()})
    parameter = nn.Parameter(server.parameters.clone())
    optimizer = reference(parameter)
    workers = Pushers(server)
    for gradient in gradients(5):
        workers.push(0, gradient, words=8)
        parameter.grad = gradient / 8
        optimizer.step()
        assert torch.allclose(server.parameters, parameter.data, rtol=0, atol=1e-7)


def test_a_buffer_of_pushes_is_one_push_of_their_sum():
    # a sum has the staleness of its latest push
    options = {"asynchronous__momentum_lead": 0.0, "optimizer__beta1": 0.9, "optimizer__beta2": 0.9}
    ours, reference = make_server(asynchronous__rule="buffer", **options), make_server(**options)
    buffered, direct = Pushers(ours), Pushers(reference)
    pushed = gradients(6)
    for index, gradient in enumerate(pushed):
        reply = buffered.push(index % 3, gradient, words=10 + index)
        assert (reply.learning_rate is not None) == (index % 3 == 2)
    for first in (0, 3):
        total = pushed[first] + pushed[first + 1] + pushed[first + 2]
        direct.push(0, total, words=30 + 3 * first + 3)
    assert torch.equal(ours.parameters, reference.parameters)
    assert ours.versions == (2, 2)


def test_a_push_looks_ahead_as_far_as_it_is_late():
    betas = {"optimizer__beta1": 0.9, "optimizer__beta2": 0.98}
    server = make_server(asynchronous__momentum_lead=1.5, **betas)
    workers = Pushers(server)
    parameters, moments = server.parameters.clone(), torch.zeros(2, SIZE)
    adam = Adam(parameters, moments[0], moments[1], 1e-9)
    turns = [(0, 0), (0, 0), (1, 2), (0, 1), (1, 1), (2, 5)]
    for number, ((worker, late), gradient) in enumerate(zip(turns, gradients(6), strict=True), 1):
        assert workers.push(worker, gradient, words=8).staleness == (late, late)
        adam.update(gradient, Update(number, 8, 1e-3, 0.9, 0.98, lead=1.5 * late))
        assert torch.equal(server.parameters, parameters)


def test_momentum_that_is_auto_follows_how_late_pushes_have_been():
    """Beside Adams that are told the mean so far of the staleness that the turns make."""
    server = make_server()
    workers = Pushers(server)
    parameters, moments = server.parameters.clone(), torch.zeros(2, SIZE)
    adam = Adam(parameters, moments[0], moments[1], 1e-9)
    turns = [(0, 0), (0, 0), (1, 2), (0, 1), (1, 1), (2, 5)]
    seen = []
    for number, ((worker, late), gradient) in enumerate(zip(turns, gradients(6), strict=True), 1):
        workers.push(worker, gradient, words=8)
        seen.append(late)
        memory = math.sqrt(1 + sum(seen) / len(seen))
        beta1, beta2 = 1 - 0.1 / memory, 1 - 0.02 / memory
        lead = late * 2 / (1 + 2.5 * late * (1 - beta1))
        adam.update(gradient, Update(number, 8, 1e-3, beta1, beta2, lead))
        assert torch.allclose(server.parameters, parameters, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_equal_workers_with_a_buffer_of_their_number_are_zero_or_one_late(num_workers):
    server = make_server(num_workers, asynchronous__rule="buffer")
    workers = Pushers(server, num_workers)
    turns = itertools.islice(itertools.cycle(range(num_workers)), 6 * num_workers)
    late = {workers.push(w, torch.ones(SIZE)).staleness[0] for w in turns}
    assert late == {0, 1}


def test_a_half_filled_buffer_survives_a_resume():
    pushed = gradients(9)
    # whoever begins anew has fetched later
    options = {"asynchronous__rule": "buffer", "optimizer__beta1": 0.9, "optimizer__beta2": 0.98}
    whole, first = (Pushers(make_server(**options)) for _ in range(2))
    for index, gradient in enumerate(pushed):
        whole.push(index % 3, gradient)
    for index, gradient in enumerate(pushed[:4]):
        first.push(index % 3, gradient)
    server = make_server(num_shards=5, **options)
    saved = first.server
    restore_from(server, saved)
    second = Pushers(server)
    second.sequences = first.sequences
    for index, gradient in enumerate(pushed[4:], start=4):
        second.push(index % 3, gradient)
    assert torch.equal(whole.server.parameters, server.parameters)


def test_the_staleness_aware_rate_divides_by_how_late_a_push_is():
    options = {key.replace(".", "__"): value for key, value in SGD.items()}
    server = make_server(asynchronous__rule="staleness-aware", **options)
    workers, expected = Pushers(server), server.parameters.clone()
    late = {0: 0, 1: 0, 2: 0}
    for worker, gradient in zip([0, 1, 2, 2, 0, 1], gradients(6), strict=True):
        reply = workers.push(worker, gradient)
        assert reply.staleness[0] == late[worker]
        expected -= 1e-3 / (1 + late[worker]) * gradient
        late = {other: count + 1 for other, count in late.items()}
        late[worker] = 0
    assert torch.allclose(server.parameters, expected, atol=1e-7)


def test_delay_compensation_is_its_formula():
    options = {key.replace(".", "__"): value for key, value in SGD.items()}
    server = make_server(
        asynchronous__rule="delay-compensation", asynchronous__compensation_strength=0.5, **options
    )
    workers, expected = Pushers(server), server.parameters.double()
    fetched = [expected.clone() for _ in range(3)]
    for worker, gradient in zip([0, 1, 2, 2, 0, 1], gradients(6), strict=True):
        words = 4
        workers.push(worker, gradient, words)
        g = gradient.double() / words
        g = g + 0.5 * g * g * (expected - fetched[worker])
        expected = expected - 1e-3 * g
        fetched[worker] = expected.clone()
    assert torch.allclose(server.parameters.double(), expected, atol=1e-6)


def test_with_overlap_a_push_is_compensated_for_what_changed_since_its_own_fetch():
    options = {key.replace(".", "__"): value for key, value in SGD.items()}
    server = make_server(
        num_workers=1,
        asynchronous__rule="delay-compensation",
        asynchronous__compensation_strength=0.5,
        asynchronous__overlap=True,
        **options,
    )
    expected, landing = server.parameters.double(), torch.zeros(SIZE)
    versions = [server.fetch(landing, 0, slot) for slot in (0, 1)]
    fetched = [expected.clone(), expected.clone()]
    for sequence, gradient in enumerate(gradients(6), start=1):
        slot = (sequence - 1) % 2
        push = Push(0, sequence, versions[slot], 1, 1.0, slot=slot)
        reply = server.exchange(push, gradient.clone(), landing)
        assert reply.staleness == (min(sequence - 1, 1),) * 2
        g = gradient.double()
        expected = expected - 1e-3 * (g + 0.5 * g * g * (expected - fetched[slot]))
        fetched[slot], versions[slot] = expected.clone(), reply.versions
        assert torch.allclose(landing.double(), expected, atol=1e-7)


@pytest.mark.parametrize("rule", ["delay-compensation", "staleness-aware"])
def test_without_staleness_nothing_is_corrected(rule):
    corrected, plain = Pushers(make_server(asynchronous__rule=rule)), Pushers(make_server())
    for gradient in gradients(5):
        corrected.push(0, gradient)
        plain.push(0, gradient)
    assert torch.equal(corrected.server.parameters, plain.server.parameters)


def test_outer_nesterov_of_one_push_is_torchs():
    server = make_server(
        asynchronous__rule="outer-nesterov", asynchronous__outer_delay=1, **named()
    )
    parameter = nn.Parameter(server.parameters.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    workers = Pushers(server)
    for gradient in gradients(5):
        workers.push(0, gradient, words=3)
        parameter.grad = gradient / 3
        optimizer.step()
    assert torch.allclose(server.parameters, parameter.data, atol=1e-5)


def test_delayed_outer_nesterov_refreshes_its_momentum_with_every_kth_push():
    server = make_server(asynchronous__rule="outer-nesterov", **named())
    workers, expected = Pushers(server), server.parameters.double()
    momentum, pending = torch.zeros(SIZE).double(), []
    for index, gradient in enumerate(gradients(7)):
        workers.push(index % 3, gradient, words=2)
        g = gradient.double() / 2
        pending.append(g)
        expected = expected - 0.7 * g / 3
        if len(pending) == 3:
            momentum = 0.9 * momentum + sum(pending) / 3
            expected = expected - 0.7 * 0.9 * momentum
            pending = []
    assert torch.allclose(server.parameters.double(), expected, atol=1e-5)


def named() -> dict[str, object]:
    return {key.replace(".", "__"): value for key, value in DELTAS.items()}


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10)
@given(
    num_shards=st.integers(1, 6),
    order=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50)), min_size=1, max_size=15),
)
def test_no_rule_depends_on_the_number_of_shards(rule, num_shards, order):
    options = {key.replace(".", "__"): value for key, value in RULES[rule].items()}
    one, several = (
        Pushers(make_server(3, shards, asynchronous__rule=rule, **options))
        for shards in (1, num_shards)
    )
    for (worker, words), gradient in zip(order, gradients(len(order)), strict=True):
        for each in (one, several):
            each.push(worker, gradient, words)
    assert torch.equal(one.server.parameters, several.server.parameters)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"asynchronous.rule": "bufer"}, "'bufer' is no rule; there are immediate, outer-nesterov"),
        ({"asynchronous.rule": "buffer+buffer"}, "names buffer twice"),
        ({"asynchronous.rule": "immediate+buffer"}, "immediate is what the others do"),
        ({"asynchronous.rule": "outer-nesterov"}, "takes deltas.*local_push"),
        ({"asynchronous.rule": "outer-nesterov+buffer", **DELTAS}, "merges pushes itself"),
        ({"asynchronous.rule": "delay-compensation", **DELTAS}, "corrects gradients.*local_push"),
        ({"asynchronous.buffer_pushes": 3}, "buffer_pushes: has no effect.*asynchronous.rule"),
        (
            {"asynchronous.local_push": "delta"},
            "local_push: has no effect.*local_optimizer_batches",
        ),
        (
            {"asynchronous.local_push": "delta", "asynchronous.local_optimizer_batches": 9},
            "local optimizers end after",
        ),
        ({"optimizer.momentum": 0.5}, "momentum: has no effect.*optimizer.name"),
        ({"optimizer.name": "sgd", "optimizer.beta1": 0.5}, "beta1: has no effect.*sgd"),
        (
            {"asynchronous.rule": "outer-nesterov", "optimizer.name": "sgd", **DELTAS},
            "optimizer.name: has no effect while asynchronous.rule is 'outer-nesterov'",
        ),
        ({"optimizer.name": "sgd", "optimizer.betas_by_words": True}, "betas_by_words: has no eff"),
        ({"optimizer.name": "sgd", "optimizer.epsilon": 1e-6}, "epsilon: has no effect.*sgd"),
        ({"schedule.warmup_updates": 0}, "decay: is 'inverse-sqrt'.*warmup_updates is 0"),
        ({"schedule.reference_words": 900}, "reference_words: has no effect.*words_scaling"),
        (
            {"optimizer.beta_points": "1:0.9:0.99", "optimizer.beta1": 0.8},
            "beta1: has.*beta_points",
        ),
        ({"optimizer.beta_points": "1:0.9"}, "beta_points: '1:0.9' is no number:beta1:beta2"),
        ({"optimizer.beta_points": "9:0.9:0.9,3:0.8:0.9"}, "does not come after"),
        ({"asynchronous.delay_warmup_updates": 9}, "has no effect.*optimizer_delay is 1"),
        (
            {"asynchronous.overlap": True, "asynchronous.driver": "synchronous"},
            "overlap: has no effect while asynchronous.driver is 'synchronous'",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(chosen, message):
    with pytest.raises(UserError, match=message):
        resolve(chosen)


@pytest.mark.parametrize("words", [250, 1000, 4000])
def test_by_words_the_moments_after_many_updates_are_those_after_one(words):
    """What the moments hold depends on the words alone, however they were cut into updates."""
    options = {
        "optimizer__betas_by_words": True,
        "schedule__learning_rate": 0.0,
        "schedule__reference_words": 1000,
    }
    before, mean = gradients(2)
    moments = []
    for cuts in (1, 5):
        pushers = Pushers(make_server(**options))
        pushers.push(0, 700 * before, words=700)
        for _ in range(cuts):
            pushers.push(0, words / cuts * mean, words=words // cuts)
        vectors = pushers.server.vectors
        moments.append((vectors["first_moment"], vectors["second_moment"]))
    for once, often, power in zip(*moments, (before, before**2), strict=True):
        assert torch.allclose(once, often, rtol=1e-4, atol=1e-7)
        assert not torch.allclose(once, power, rtol=0.1), "or the words forgot nothing"
