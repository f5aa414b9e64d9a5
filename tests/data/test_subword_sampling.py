"""Drawn pieces spell what is stored, have the probabilities of the literature, and come again."""

from __future__ import annotations

import collections
import gzip
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.config.schema import DataConfig
from nmtasync.data.batches import collate
from nmtasync.data.epochs import EpochPlans
from nmtasync.data.shards import ParallelShards
from nmtasync.data.subword_sampling import SubwordSampler
from nmtasync.data.vocabulary import UNK, Vocabulary, VocabularyPair
from nmtasync.preprocessing.character_rules import CharacterRules
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary
from tests.support.shards import write_shards

TEST_DATA = os.environ.get("NMTASYNC_TEST_DATA")
TEXT = [
    "the tall man walks a dog",
    "<tag> a tall tree, the walking man",
    "dogs walk and men talk the talk",
    "a man talking to the dog <tag>",
] * 5
MANY = {"unigram": 0.05, "bpe": 0.6}
"""Alphas with which sentences get much longer."""
FAR = 10_000
"""So long no sentence is."""


def learned(kind: str, **options: object) -> Vocabulary:
    options = {"vocab_size": 282, "user_symbols": "<tag>", **options}
    return learn_vocabulary(TEXT, DataConfig(vocab_type=kind, **options))


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vocabulary(kind: str) -> Vocabulary:
    return learned(kind)


def sampler(vocabulary: Vocabulary, alpha: float | None = 0.2) -> SubwordSampler:
    return SubwordSampler(VocabularyPair(vocabulary, vocabulary, joint=True), (alpha, alpha))


def drawn(
    vocabulary: Vocabulary, stored: list[list[int]], seed: int = 1, alpha: float = 0.2
) -> list[list[int]]:
    return sampler(vocabulary, alpha).draw([stored, stored], (FAR, FAR), seed)[0]


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), max_size=12),
            st.lists(st.sampled_from(["<tag>", "the", "walk", "ﬁ", "é", "☃", "x"])).map(" ".join),
        ),
        max_size=6,
    ),
    st.integers(0, 1 << 60),
)
def test_what_is_drawn_spells_what_is_stored(
    vocabulary: Vocabulary, lines: list[str], seed: int
) -> None:
    stored = vocabulary.encode(lines)
    again = drawn(vocabulary, stored, seed)
    assert vocabulary.decode(again) == vocabulary.decode(stored)
    assert again == drawn(vocabulary, stored, seed)


def test_rules_that_rewrite_what_they_wrote_are_not_applied_twice(tmp_path: Path) -> None:
    (tmp_path / "rules.tsv").write_text("61\t62\n62\t63\n")  # a to b, and b to c
    vocabulary = CharacterRules("nmt_nfkc", tmp_path / "rules.tsv").put_into(learned("unigram"))
    stored = vocabulary.encode(["aab"])
    assert vocabulary.decode(stored) == ["bbc"]
    assert vocabulary.decode(drawn(vocabulary, stored)) == ["bbc"]


def test_tags_and_unknown_characters_stay_whole() -> None:
    """A unigram model may cut the symbols of users when it samples."""
    vocabulary = learned("unigram", byte_fallback=False, vocab_size=30)
    (stored,) = vocabulary.encode(["the <tag> ☃ man"])
    tag = vocabulary.pieces().index("<tag>")
    assert UNK in stored and tag in stored
    segmentations = drawn(vocabulary, [stored] * 3000, alpha=0.01)
    assert all([i for i in each if i in (UNK, tag)] == [tag, UNK] for each in segmentations)
    assert len(set(map(tuple, segmentations))) > 3, "or nothing was tested"


def test_unigram_segmentations_come_by_the_power_of_their_probability() -> None:
    """Against all segmentations of a word, weighed one by one with the pieces' own scores."""
    vocabulary, alpha, times = learned("unigram"), 0.5, 40_000
    scores = {vocabulary.spell([i])[0]: s for i, s in vocabulary.learned_scores().items()}
    word = "▁walking"
    weights: dict[tuple[str, ...], float] = {}

    def extend(parts: tuple[str, ...], rest: str) -> None:
        if not rest:
            weights[parts] = math.exp(alpha * sum(scores[part] for part in parts))
        for end in range(1, len(rest) + 1):
            if rest[:end] in scores:
                extend((*parts, rest[:end]), rest[end:])

    extend((), word)
    (stored,) = vocabulary.encode(["walking"])
    segmentations = drawn(vocabulary, [stored] * times, alpha=alpha)
    found = collections.Counter(tuple(vocabulary.spell(ids)) for ids in segmentations)
    for parts, weight in weights.items():
        expected = times * weight / sum(weights.values())
        assert abs(found[parts] - expected) < 5 * math.sqrt(expected + 1), parts
    assert set(found) <= set(weights)


def test_merges_are_left_out_with_the_probability_that_is_asked_for() -> None:
    vocabulary = learned("bpe")
    stored = vocabulary.encode(["the tall man walks"])
    assert drawn(vocabulary, stored, alpha=1e-9) == stored
    (characters,) = drawn(vocabulary, stored, alpha=1.0)
    assert vocabulary.spell(characters) == list("▁the▁tall▁man▁walks")
    one_merge = next(piece for piece in vocabulary.pieces() if len(piece) == 2 and piece[0] == "▁")
    (stored,) = vocabulary.encode([one_merge[1]])
    assert vocabulary.spell(stored) == [one_merge]
    kept = sum(each == stored for each in drawn(vocabulary, [stored] * 20_000, alpha=0.3))
    assert kept == pytest.approx(14_000, abs=5 * math.sqrt(20_000 * 0.3 * 0.7))


def test_both_sides_are_drawn_for_themselves(vocabulary: Vocabulary) -> None:
    stored = vocabulary.encode(TEXT)
    source, target = sampler(vocabulary).draw([stored, stored], (FAR, FAR), 1)
    assert source != target


@pytest.fixture
def much_longer(kind: str, vocabulary: Vocabulary) -> SubwordSampler:
    return sampler(vocabulary, MANY[kind])


@pytest.fixture
def directory(tmp_path: Path, vocabulary: Vocabulary) -> Path:
    """Of a corpus of 1,000 pairs."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(" ".join(TEXT).split(), rng.integers(1, 20))) for _ in range(1000)]
    ids = vocabulary.encode(lines)
    write_shards(tmp_path / "train", ids, ids[::-1], vocabulary.size)
    return tmp_path / "train"


def test_a_batch_is_drawn_by_its_seed_in_every_process(
    directory: Path, vocabulary: Vocabulary
) -> None:
    corpus = ParallelShards.open(directory, sampler(vocabulary))
    plain = ParallelShards.open(directory)
    another = pickle.loads(pickle.dumps(corpus))
    ids = np.array([5, 900, 17])

    def tensors(shards: ParallelShards, seed: int) -> list[list[int]]:
        batch = collate(shards, ids, seed=seed)
        return [*batch.source.tolist(), *batch.target.tolist()]

    assert tensors(corpus, 3) == tensors(another, 3)
    assert tensors(corpus, 3) != tensors(corpus, 4)
    assert tensors(plain, 3) == tensors(plain, 4)
    assert tensors(corpus, 3) != tensors(plain, 3)


def test_sentences_never_get_longer_than_the_longest(
    directory: Path, much_longer: SubwordSampler
) -> None:
    corpus, ids = ParallelShards.open(directory, much_longer), np.arange(1000)
    drawn = [side.to_lists() for side in corpus.sentences(ids, seed=1)]
    stored = [side.to_lists() for side in ParallelShards.open(directory).sentences(ids, seed=1)]
    for side, before, most in zip(drawn, stored, corpus.longest(), strict=True):
        assert max(map(len, side)) <= most
        assert sum(map(len, side)) > 1.1 * sum(map(len, before)), "or nothing was tested"


def test_batches_hold_their_tokens_on_average(directory: Path, much_longer: SubwordSampler) -> None:
    """Cut by the stored lengths they would have many more."""
    plain = ParallelShards.open(directory)
    anew = ParallelShards.open(directory, much_longer)

    def mean_tokens(planned: ParallelShards, used: ParallelShards) -> float:
        batches = EpochPlans(planned, 400, seed=1).batches(0, 0)
        drawn = [collate(used, ids, seed=n) for n, ids in enumerate(batches)]
        return float(np.mean([max(each.source.numel(), each.target.numel()) for each in drawn]))

    wanted = mean_tokens(plain, plain)
    assert mean_tokens(anew, anew) == pytest.approx(wanted, rel=0.06)
    assert mean_tokens(plain, anew) > 1.12 * wanted


@pytest.mark.skipif(TEST_DATA is None, reason="NMTASYNC_TEST_DATA names no folder of corpora")
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_real_text_is_kept_to_the_letter(kind: str) -> None:
    path = Path(str(TEST_DATA)) / "multi30k" / "val.de.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    vocabulary = learn_vocabulary(lines, DataConfig(vocab_type=kind, vocab_size=2000))
    stored = vocabulary.encode(lines)
    assert drawn(vocabulary, stored, alpha=1e-9 if kind == "bpe" else 1e3) == stored
    again = drawn(vocabulary, stored)
    assert vocabulary.decode(again) == vocabulary.decode(stored)
    assert sum(map(len, again)) > 1.1 * sum(map(len, stored))
