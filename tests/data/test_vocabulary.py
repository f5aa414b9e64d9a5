"""Vocabularies: round trips, control pieces, sizes that do not fit, silence."""

import pickle
import random
from pathlib import Path

import pytest

from nmtasync.config.schema import DataConfig
from nmtasync.data.vocabulary import (
    BOS,
    EOS,
    PAD,
    UNK,
    Vocabulary,
    VocabularyPair,
)
from nmtasync.errors import UserError
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary


def make_text(num_lines: int = 200, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(150)]
    return [" ".join(rng.choices(words, k=8)) for _ in range(num_lines)]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return learn_vocabulary(make_text(), DataConfig(vocab_size=340))


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_the_same_text_gives_the_same_model(algorithm: str) -> None:
    config = DataConfig(vocab_size=340, vocab_type=algorithm)
    first, second = (learn_vocabulary(iter(make_text()), config) for _ in range(2))
    assert first.model == second.model
    assert first.size == 340


def test_round_trip_of_characters_never_seen(vocabulary: Vocabulary) -> None:
    lines = ["abc def", 'Ünïcödé 漢字 🙂 \\ "', "x" * 5000, ""]
    encoded = vocabulary.encode(lines)
    assert vocabulary.decode(encoded) == lines
    assert not {PAD, UNK, BOS, EOS} & {i for ids in encoded for i in ids}


def test_many_lines_are_encoded_as_one_by_one(vocabulary: Vocabulary) -> None:
    lines = make_text(700, seed=2)
    assert vocabulary.encode(lines) == [vocabulary.encode([line])[0] for line in lines]


def test_text_that_looks_like_control_pieces_stays_text() -> None:
    text = ["so <s> it </s> goes <pad> and <unk> on <0x41>"] * 50 + make_text()
    vocabulary = learn_vocabulary(text, DataConfig(vocab_size=320))
    line = "<s></s><pad><unk><0x41> </s>"
    (ids,) = vocabulary.encode([line])
    assert min(ids) > max(PAD, UNK, BOS, EOS)
    assert vocabulary.decode([ids]) == [line]


def test_control_pieces_vanish_and_line_breaks_do_not_break_lines(vocabulary: Vocabulary) -> None:
    (ids,) = vocabulary.encode(["abc"])
    assert vocabulary.decode([[BOS, *ids, EOS, PAD, PAD], []]) == ["abc", ""]
    first_byte = UNK + 3  # the byte pieces follow the control pieces
    breaks = [first_byte + ord("\n"), first_byte + ord("\r")]
    assert vocabulary.decode([[*breaks]]) == ["  "]
    assert vocabulary.decode([]) == []


def test_without_byte_fallback_the_unseen_is_unknown() -> None:
    vocabulary = learn_vocabulary(make_text(), DataConfig(vocab_size=60, byte_fallback=False))
    assert UNK in vocabulary.encode(["漢"])[0]


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_the_largest_possible_size_is_told_and_works(algorithm: str) -> None:
    text = make_text(20)
    with pytest.raises(UserError, match="too small for a vocabulary of 9000") as caught:
        learn_vocabulary(text, DataConfig(vocab_size=9000, vocab_type=algorithm))
    largest = int(str(caught.value).split("--vocab-size ")[1].split()[0])
    assert (
        learn_vocabulary(text, DataConfig(vocab_size=largest, vocab_type=algorithm)).size == largest
    )
    with pytest.raises(UserError):
        learn_vocabulary(text, DataConfig(vocab_size=largest + 1, vocab_type=algorithm))


def test_sizes_too_small_and_no_text() -> None:
    with pytest.raises(UserError, match="too few"):
        learn_vocabulary(make_text(), DataConfig(vocab_size=100))
    with pytest.raises(UserError, match="no text"):
        learn_vocabulary([], DataConfig(vocab_size=300))


def test_sentencepiece_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    learn_vocabulary(make_text(), DataConfig(vocab_size=340))
    with pytest.raises(UserError):
        learn_vocabulary(make_text(), DataConfig(vocab_size=9000))
    assert capfd.readouterr() == ("", "")


def test_pairs_are_saved_loaded_and_told_apart(tmp_path: Path, vocabulary: Vocabulary) -> None:
    other = learn_vocabulary(make_text(seed=3), DataConfig(vocab_size=320))
    pairs = [
        VocabularyPair(vocabulary, vocabulary, joint=True),
        VocabularyPair(other, other, joint=True),
        VocabularyPair(vocabulary, other, joint=False),
        VocabularyPair(other, vocabulary, joint=False),
        VocabularyPair(other, other, joint=False),
    ]
    digests = set()
    for i, pair in enumerate(pairs):
        directory = tmp_path / str(i)
        directory.mkdir()
        pair.save(directory)
        loaded = VocabularyPair.load(directory)
        assert (loaded.source.model, loaded.target.model) == (pair.source.model, pair.target.model)
        assert loaded.joint == pair.joint
        assert loaded.digest() == pair.digest()
        digests.add(loaded.digest())
    assert len(digests) == len(pairs)


def test_a_vocabulary_can_go_to_another_process(vocabulary: Vocabulary) -> None:
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode(make_text(3)) == vocabulary.encode(make_text(3))


def test_broken_model_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't read the vocabulary"):
        VocabularyPair.load(tmp_path)
    for content in (b"nothing of the kind", b""):
        (tmp_path / "joint.model").write_bytes(content)
        with pytest.raises(UserError, match="no SentencePiece model"):
            VocabularyPair.load(tmp_path)


@pytest.mark.parametrize(
    ("rule", "lost"), [("nmt_nfkc", "，！½"), ("nfkc", "，！½"), ("identity", "")]
)
def test_normalization_rewrites_what_no_translation_can_have_then(rule: str, lost: str) -> None:
    lines = ["他来了，真好！", "½ cup", "plain\u00a0 text"] * 40
    more = ["the old house stands by the wide river", "we walk there every single day"] * 40
    vocabulary = learn_vocabulary([*lines, *more], DataConfig(vocab_size=296, normalization=rule))
    (decoded, *_) = vocabulary.decode(vocabulary.encode(lines[:1]))
    assert (decoded == lines[0]) == (rule == "identity")
    found = vocabulary.lost_characters(lines[:3])
    assert set().union(*found) == set(lost), "a space of another kind is a space"
