"""Mini-batches: each sentence once, within the budget, little padding, right tensors."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.data.batches import collate, plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import BOS, EOS, PAD
from tests.support.shards import write_shards

Lengths = npt.NDArray[np.int32]


def as_arrays(lengths: list[tuple[int, int]]) -> tuple[Lengths, Lengths]:
    both = np.array(lengths, dtype=np.int32).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def padded_tokens(ids: npt.NDArray[np.int64], source: Lengths, target: Lengths) -> int:
    return len(ids) * (1 + max(*source[ids].tolist(), *target[ids].tolist()))


def random_lengths(num_pairs: int) -> tuple[Lengths, Lengths]:
    rng = np.random.default_rng(1)
    source = rng.integers(3, 40, num_pairs)
    target = np.maximum(1, source + rng.integers(-4, 5, num_pairs))
    return source.astype(np.int32), target.astype(np.int32)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=80),
    st.integers(1, 100),
    st.integers(0, 3),
)
def test_each_sentence_once_within_the_budget(
    lengths: list[tuple[int, int]], batch_tokens: int, epoch: int
) -> None:
    source, target = as_arrays(lengths)
    plan = plan_epoch(source, target, batch_tokens=batch_tokens, seed=1, epoch=epoch)
    assert sorted(i for ids in plan for i in ids.tolist()) == list(range(len(lengths)))
    for ids in plan:
        assert len(ids) == 1 or padded_tokens(ids, source, target) <= batch_tokens


def test_batches_are_as_full_as_the_budget_lets_them_be() -> None:
    # one pair more, and the budget would be broken: all sentences are equally long
    source = np.full(1003, 9, dtype=np.int32)
    for batch_tokens in (100, 109):
        plan = plan_epoch(source, source, batch_tokens=batch_tokens, seed=1, epoch=0)
        assert sorted(map(len, plan)) == [3, *[10] * 100]


def test_little_padding_in_batches_of_mixed_lengths() -> None:
    source, target = random_lengths(20_000)
    plan = plan_epoch(source, target, batch_tokens=1500, seed=1, epoch=0)
    real = int(np.maximum(source, target).sum()) + len(source)
    assert real / sum(padded_tokens(ids, source, target) for ids in plan) > 0.97
    assert real / 1500 / len(plan) > 0.93  # nor are batches left half empty


def test_batches_that_span_two_target_lengths_have_similar_sources() -> None:
    # sources that began anew with the shortest at each target length would reach 0.961
    source, target = random_lengths(20_000)
    plan = plan_epoch(source, target, batch_tokens=1500, seed=1, epoch=0)
    padded = sum(int(source[ids].max() + 1) * len(ids) for ids in plan)
    assert (int(source.sum()) + len(source)) / padded > 0.967


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    source, target = random_lengths(2000)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        made = plan_epoch(source, target, batch_tokens=300, seed=seed, epoch=epoch)
        return [ids.tolist() for ids in made]

    assert plan(1, 2) == plan(1, 2)
    variants = [plan(1, 1), plan(1, 2), plan(2, 1)]
    for i, one in enumerate(variants):
        for other in variants[:i]:  # neither only the order nor only the content is new
            assert one != other
            assert sorted(map(sorted, one)) != sorted(map(sorted, other))


def test_the_order_of_batches_is_random_in_length() -> None:
    source, target = random_lengths(5000)
    plan = plan_epoch(source, target, batch_tokens=300, seed=1, epoch=0)
    means = [float(target[ids].mean()) for ids in plan]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.15


def test_collate_against_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sources = [rng.integers(4, 99, rng.integers(1, 9)).tolist() for _ in range(12)]
    targets = [rng.integers(4, 99, rng.integers(1, 9)).tolist() for _ in range(12)]
    write_shards(tmp_path / "corpus", sources, targets)
    rows = [7, 0, 11, 3]
    batch = collate(ParallelShards.open(tmp_path / "corpus"), rows)

    def pad(sentences: list[list[int]]) -> list[list[int]]:
        width = max(map(len, sentences))
        return [sentence + [PAD] * (width - len(sentence)) for sentence in sentences]

    assert batch.source.tolist() == pad([[*sources[i], EOS] for i in rows])
    assert batch.target.tolist() == pad([[*targets[i], EOS] for i in rows])
    assert batch.target_input.tolist() == pad([[BOS, *targets[i]] for i in rows])
    assert batch.source_mask.tolist() == (batch.source != PAD).tolist()
    real = [t for t, piece in enumerate(batch.target.flatten().tolist()) if piece != PAD]
    assert batch.real_targets.tolist() == real
    assert batch.source_words == sum(len(sources[i]) + 1 for i in rows)
    assert batch.target_words == sum(len(targets[i]) + 1 for i in rows)
    assert batch.source.dtype == batch.target_input.dtype == torch.int64
