"""Plans of epochs: in stretches, each pair as often as its weight says, in little memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.data import epochs as epochs_module
from nmtasync.data.cursor import BatchCursor
from nmtasync.data.epochs import EpochPlans, Mixture
from nmtasync.data.permutation import Permutation
from nmtasync.data.shards import CorpusPart


@dataclass
class Corpus:
    """What plans need of a corpus: pair i has i % 17 source and i % 11 target pieces."""

    corpora: Sequence[CorpusPart]
    most_asked_for: int = field(default=0)

    def lengths_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.most_asked_for = max(self.most_asked_for, len(ids))
        return (ids % 17).astype(np.int32), (ids % 11).astype(np.int32)

    def __len__(self) -> int:
        return sum(part.pairs for part in self.corpora)


def corpus_of(*pairs_and_weights: tuple[int, float]) -> Any:
    return Corpus([CorpusPart(f"corpus {i}", *part) for i, part in enumerate(pairs_and_weights)])


def plans_of(corpus: Any, stretch_pairs: int, batch_tokens: int = 60, seed: int = 1) -> EpochPlans:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs_module, "STRETCH_PAIRS", stretch_pairs)
        return EpochPlans(corpus, batch_tokens, seed)


def epoch_of(plans: EpochPlans, epoch: int) -> list[list[list[int]]]:
    """The batches of each stretch."""
    stretches = range(plans.num_stretches(epoch))
    return [[batch.tolist() for batch in plans.batches(epoch, stretch)] for stretch in stretches]


def counted(stretches: list[list[list[int]]]) -> Counter[int]:
    return Counter(pair for stretch in stretches for batch in stretch for pair in batch)


def planned_as_a_whole(num_pairs: int, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The plan of version 0.1, as plainly as can be."""
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(num_pairs).tolist()
    order.sort(key=lambda i: (i % 11, -(i % 17) if i % 11 % 2 else i % 17))
    batches: list[list[int]] = []
    for pair in order:
        together = [*(batches[-1] if batches else []), pair]
        width = 1 + max(max(i % 17, i % 11) for i in together)
        if batches and width * len(together) <= batch_tokens:
            batches[-1].append(pair)
        else:
            batches.append([pair])
    return [batches[i] for i in rng.permutation(len(batches))]


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 3), st.integers(0, 3))
def test_a_corpus_of_one_stretch_has_the_plan_that_it_always_had(
    num_pairs, batch_tokens, seed, epoch
):
    plans = plans_of(corpus_of((num_pairs, 1.0)), 300, batch_tokens, seed)
    assert epoch_of(plans, epoch) == [planned_as_a_whole(num_pairs, batch_tokens, seed, epoch)]


@settings(max_examples=100)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5))
def test_the_stretches_of_an_epoch_have_each_pair_once(num_pairs, stretch_pairs, epoch):
    plans = plans_of(corpus_of((num_pairs, 1.0)), stretch_pairs)
    stretches = epoch_of(plans, epoch)
    assert counted(stretches) == Counter(range(num_pairs))
    sizes = [sum(map(len, stretch)) for stretch in stretches]
    assert sizes[:-1] == [stretch_pairs] * (len(stretches) - 1)
    done = [plans.share_done(epoch, w, s) for w in range(len(stretches)) for s in (0.0, 0.5)]
    assert done == sorted(done) and plans.share_done(epoch, len(stretches) - 1, 1.0) == 1.0


def test_a_stretch_depends_on_seed_and_epoch_alone():
    def stretches(seed: int, epoch: int) -> list[list[list[int]]]:
        return epoch_of(plans_of(corpus_of((500, 1.0)), 100, seed=seed), epoch)

    whole = stretches(1, 2)
    alone = plans_of(corpus_of((500, 1.0)), 100)
    for stretch in (3, 0, 4, 1, 2, 3):  # in any order, also when it was planned beside another
        alone.prepare(2, (stretch + 2) % 5)
        assert [batch.tolist() for batch in alone.batches(2, stretch)] == whole[stretch]
    others = [stretches(1, 1), stretches(2, 2)]
    assert all(sorted(map(sorted, whole[0])) != sorted(map(sorted, o[0])) for o in others)
    assert whole[0] != whole[1]
    mixed = np.array([pair for batch in whole[0] for pair in batch])
    assert abs(mixed.mean() - 250) < 60, "a stretch is drawn from all of the corpus"


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1024, 1025, 99_991])
def test_a_permutation_has_each_number_once(size):
    places = np.arange(size)
    order = Permutation(size, [1, 2])(places)
    assert sorted(order.tolist()) == places.tolist()
    assert Permutation(size, [1, 2])(places[-1:]).tolist() == [order[-1]], "of a part, too"


def test_permutations_are_as_different_as_random_ones():
    """Of four numbers each of the 24 orders comes as often as the others (chi-squared, 0.001)."""
    orders = Counter(tuple(Permutation(4, [seed])(np.arange(4)).tolist()) for seed in range(4800))
    assert sum((orders[order] - 200) ** 2 / 200 for order in orders) < 49.7
    assert len(orders) == 24
    large = Permutation(10**9, [1])(np.arange(20_000))
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.03
    assert len(set(large.tolist())) == 20_000


weights = st.sampled_from([1.0, 2.0, 0.5, 0.1, 1.3, 0.34, 2.75, 0.001])
mixtures = st.lists(st.tuples(st.integers(0, 30), weights), min_size=1, max_size=4)


@settings(max_examples=200)
@given(mixtures, st.integers(1, 12))
def test_each_pair_is_used_as_often_as_its_weight_says(parts, num_epochs):
    corpus = corpus_of(*parts)
    mixture = Mixture(corpus.corpora, seed=1)
    total: Counter[int] = Counter()
    for epoch in range(num_epochs):
        size = mixture.size(epoch)
        used = Counter(mixture.pairs(epoch, np.arange(size)).tolist())
        for pair in range(len(corpus)):
            assert 0 <= used[pair] - int(weight_of(pair, parts)) <= 1
        total += used
    start = 0
    for pairs, weight in parts:
        counts = [total[pair] for pair in range(start, start + pairs)]
        exact = num_epochs * Fraction(str(weight)) * pairs
        assert sum(counts) == int(exact)
        assert max(counts, default=0) - min(counts, default=0) <= 1
        start += pairs
    assert sum(total.values()) == sum(total[pair] for pair in range(start)), "and no other pair"


def weight_of(pair: int, parts: list[tuple[int, float]]) -> float:
    for pairs, weight in parts:
        if pair < pairs:
            return weight
        pair -= pairs
    raise AssertionError


def test_the_share_of_a_corpus_is_another_one_in_the_next_epoch():
    mixture = Mixture(corpus_of((100, 0.25)).corpora, seed=1)
    shares = [set(mixture.pairs(e, np.arange(mixture.size(e))).tolist()) for e in range(4)]
    assert set.union(*shares) == set(range(100))
    assert all(np.diff(sorted(share)).max() > 1 for share in shares), "at random"


@settings(max_examples=60)
@given(
    parts=st.sampled_from([[(40, 1.0)], [(23, 0.3), (11, 2.5), (4, 1.0)]]),
    stretch_pairs=st.sampled_from([7, 1000]),
    num_workers=st.sampled_from([1, 2, 3, 7]),
    actions=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["work", "die", "resume"]))),
)
def test_workers_that_die_change_no_count(parts, stretch_pairs, num_workers, actions):
    """Whoever draws and dies, and wherever training is resumed: what was pushed is each epoch."""
    plans, num_epochs = plans_of(corpus_of(*parts), stretch_pairs), 3
    cursor = BatchCursor(plans, num_epochs)
    pushed: dict[int, Counter[int]] = {epoch: Counter() for epoch in range(num_epochs)}
    windows: dict[int, list] = {}
    for number in count():
        worker, action = actions[number] if number < len(actions) else (number, "work")
        worker %= num_workers
        if action == "resume":
            position = cursor.state()
            plans = plans_of(corpus_of(*parts), stretch_pairs)
            cursor = BatchCursor(plans, num_epochs)
            cursor.restore(position)
            windows.clear()
        elif action == "die":
            cursor.give_back(worker)
            windows.pop(worker, None)
        elif worker not in windows:
            windows[worker] = cursor.draw(worker, 2)
        else:
            for batch in windows.pop(worker):
                pushed[batch.epoch].update(batch.sentences.tolist())
            cursor.finish(worker)
        if cursor.exhausted:
            break
    mixture = Mixture(corpus_of(*parts).corpora, seed=1)
    for epoch, used in pushed.items():
        places = np.arange(mixture.size(epoch))
        assert used == Counter(mixture.pairs(epoch, places).tolist())


def test_planning_an_epoch_needs_little_memory():
    """Of a corpus of 2 million pairs, whose ids alone have 16 MB, in stretches of 20,000."""
    plans = plans_of(corpus_of((2_000_000, 1.0)), 20_000, batch_tokens=2000)
    cursor = BatchCursor(plans, None)
    tracemalloc.start()
    while cursor.epoch == 0 and cursor.position < 12 * plans.stretch_pairs:
        cursor.draw(0, 1)
        cursor.finish(0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plans.corpus.most_asked_for == 20_000
    assert peak_bytes < 8_000_000


def test_batches_of_several_stretches_are_estimated_from_the_first():
    plans = plans_of(corpus_of((1000, 1.0)), 300)
    assert plans.num_batches(0) == pytest.approx(sum(map(len, epoch_of(plans, 0))), rel=0.03)
    plans = plans_of(corpus_of((1000, 1.0)), 1000)
    batches = plans.batches(0, 0)
    assert plans.num_batches(0) == len(batches)
    words = sum(1 + pair % 11 for pair in range(1000))
    assert plans.mean_target_words() == words / len(batches)
