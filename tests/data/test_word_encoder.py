"""Segmentation word by word gives the pieces that SentencePiece gives line by line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.config.schema import DataConfig
from nmtasync.data import word_encoder
from nmtasync.data.vocabulary import Vocabulary
from nmtasync.data.word_encoder import WordEncoder, count_words
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary

TEST_DATA = os.environ.get("NMTASYNC_TEST_DATA")
TEXT = ["00 000 0000 abab ab a", "ä ö ¨ ﬁne x\u0308y", "haha ha hahaha 1.000 5.000"] * 5
IDS = np.dtype("<u2")

WORDS = st.one_of(
    st.text(alphabet="0ab.", max_size=6),
    st.text(max_size=4),
    st.sampled_from(["\u0308", "¨", "\u3000", "\u200b", "▁", "<s>", "ﬁ", "", "\xa0a", "e\u0301"]),
)
LINES = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=8)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return learn_vocabulary(TEXT, DataConfig(vocab_size=286, vocab_type=request.param))


def encoded(encoder: WordEncoder, lines: list[str]) -> list[list[int]]:
    packed, lengths = encoder.encode(lines)
    parts = np.split(np.frombuffer(packed, IDS), np.cumsum(lengths)[:-1])
    return [part.tolist() for part in parts][: len(lines)]


@settings(max_examples=200)
@given(LINES)
def test_pieces_are_those_of_the_whole_line(vocabulary: Vocabulary, lines: list[str]) -> None:
    assert vocabulary.is_word_by_word
    encoder = WordEncoder(vocabulary, IDS)
    with mock.patch.object(word_encoder, "_TIMES", 1):  # every word is remembered at once
        for _ in range(2):
            assert encoded(encoder, lines) == vocabulary.encode(lines)
    assert count_words(lines) == sum(map(bool, " ".join(lines).split(" ")))


@pytest.mark.slow
@pytest.mark.skipif(TEST_DATA is None, reason="NMTASYNC_TEST_DATA names no folder of corpora")
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces_of_real_text(kind: str) -> None:
    """Ties do occur there: 000 is 00 and 0, or 0 and 00."""
    lines: list[str] = []
    for name in ("train.de.gz", "train.en.gz"):
        with gzip.open(Path(str(TEST_DATA)) / "multi30k" / name, "rt", encoding="utf-8") as file:
            lines += file.read().split("\n")[:15_000]
    for path in sorted((Path(str(TEST_DATA)) / "wmt16-ro-en").glob("*.*")):
        lines += path.read_text("utf-8").split("\n")
    vocabulary = learn_vocabulary(lines, DataConfig(vocab_type=kind))
    encoder = WordEncoder(vocabulary, IDS)
    for start in range(0, len(lines), 2000):
        part = lines[start : start + 2000]
        assert encoded(encoder, part) == vocabulary.encode(part)


def test_a_normalization_that_joins_words_is_not_cut_at_spaces() -> None:
    vocabulary = learn_vocabulary(TEXT, DataConfig(vocab_size=286))
    foreign = Vocabulary(vocabulary.model.replace(b"nmt_nfkc", b"nmt_xxxx"))
    assert not foreign.is_word_by_word
    lines = ["0 0 0", "a b"] * 20
    assert encoded(WordEncoder(foreign, IDS), lines) == foreign.encode(lines)
