"""Which pairs are dropped, and for which reason."""

from __future__ import annotations

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmtasync.config.languages import script_of
from nmtasync.config.schema import DataConfig
from nmtasync.data.cleaning import AROUND_A_LINE
from nmtasync.preprocessing.characters import CharacterKinds
from nmtasync.preprocessing.rules import (
    LONGEST_REPEATED,
    TextRules,
    Verdict,
    judge_pieces,
    repeats,
)


def judge_text(source: str, target: str, filters: bool = True, **options: object) -> Verdict:
    rules = TextRules(DataConfig(**options), filters=filters)  # type: ignore[arg-type]
    return Verdict(rules.judge([source], [target])[0])


def judge_lengths(source: int, target: int, max_length: int | None, ratio: float | None) -> Verdict:
    filters = max_length and DataConfig(max_length=max_length, max_ratio=ratio)
    sides = [(np.arange(length), np.array([length])) for length in (source, target)]
    return Verdict(judge_pieces(sides[0], sides[1], filters or None)[0])


def test_length_and_ratio_at_their_bounds() -> None:
    assert judge_lengths(100, 100, 100, 4.0) == Verdict.KEPT
    assert judge_lengths(101, 100, 100, 4.0) == Verdict.TOO_LONG
    assert judge_lengths(100, 101, 100, 4.0) == Verdict.TOO_LONG
    assert judge_lengths(20, 80, 100, 4.0) == Verdict.KEPT
    assert judge_lengths(20, 81, 100, 4.0) == Verdict.RATIO
    assert judge_lengths(81, 20, 100, 4.0) == Verdict.RATIO
    assert judge_lengths(81, 20, 80, 4.0) == Verdict.TOO_LONG  # the first reason counts
    assert judge_lengths(1, 10_000, None, None) == Verdict.KEPT


def test_short_pairs_are_spared_the_ratio() -> None:
    assert judge_lengths(2, 15, 100, 4.0) == Verdict.KEPT  # "Hi." and a longer greeting
    assert judge_lengths(2, 16, 100, 4.0) == Verdict.RATIO


def test_empty_sides_before_and_after_segmentation() -> None:
    assert judge_text("", "x") == judge_text("x", "", filters=False) == Verdict.EMPTY
    assert judge_lengths(0, 3, 100, 4.0) == Verdict.EMPTY
    assert judge_lengths(3, 0, None, None) == Verdict.EMPTY


def test_text_too_long_for_any_vocabulary() -> None:
    assert judge_text("x" * 640, "y", max_length=10) == Verdict.KEPT
    assert judge_text("x", "y" * 641, max_length=10) == Verdict.TOO_LONG
    assert judge_text("x" * 100_000, "y", filters=False) == Verdict.KEPT


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("Paris 2024", "Paris 2024", Verdict.KEPT),  # names stay as they are
        ("one two three four", "one two three four", Verdict.IDENTICAL),
        ("one two three four", "one two three Four", Verdict.KEPT),
        ("12:30 – 14:00", "12:30 – 14:00 h", Verdict.FEW_LETTERS),
        ("Saal 12", "room 12", Verdict.KEPT),
        ("Zeile mit \x07", "line", Verdict.CONTROL),
        ("Zeile", "broken \ufffd", Verdict.CONTROL),
        ("Tab\tund \x85 \u2028 Trenner", "are space", Verdict.KEPT),
        ("Привет, мир", "Hello world", Verdict.SCRIPT),
        ("Hallo Welt", "Hello Привет всем людям", Verdict.SCRIPT),
        ("Der Name ist Привет", "The name is Привет", Verdict.KEPT),
    ],
)
def test_text_by_its_characters(source: str, target: str, expected: Verdict) -> None:
    options = {"source_language": "de", "target_language": "en"}
    assert judge_text(source, target, **options) == expected
    assert judge_text(source, target, filters=False, **options) == Verdict.KEPT
    off = {
        "min_identical_words": None,
        "min_letters": None,
        "min_script": None,
        "drop_control_characters": False,
    }
    assert judge_text(source, target, **options, **off) == Verdict.KEPT


@pytest.mark.parametrize(
    ("code", "script"),
    [
        ("de", "Latn"),
        ("zh", "Hans"),
        ("jpn_Jpan", "Jpan"),
        ("sr", None),
        ("sr-Latn", "Latn"),
        ("xx", None),
        (None, None),
    ],
)
def test_a_code_implies_a_script_or_leaves_it_open(code: str | None, script: str | None) -> None:
    assert script_of(code) == script


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ja", "東京タワーは高いです。コーヒー"),
        ("zh", "我爱北京天安门"),
        ("ko", "안녕하세요 大韓民國"),
        ("th", "สวัสดีครับ"),
        ("hi", "नमस्ते दुनिया"),
        ("ar", "مرحبا بالعالم"),
        ("uk", "Привіт, світе"),
    ],
)
def test_each_script_takes_its_own_text(language: str, text: str) -> None:
    options = {"source_language": language, "target_language": "en"}
    assert judge_text(text, "some words of English", **options) == Verdict.KEPT
    assert judge_text("some words of English", "some words", **options) == Verdict.SCRIPT


@given(st.lists(st.text(max_size=20), max_size=6))
@example(["", "", "ä", ""])
def test_characters_are_counted_as_one_by_one(lines: list[str]) -> None:
    kinds = CharacterKinds("ru")
    counts = kinds.count(lines, np.array([len(line) for line in lines], np.int64))
    own = regex.compile(r"[\p{Script=Cyrl}\p{Script=Zyyy}\p{Script=Zinh}]")
    letter, control = regex.compile(r"[\p{L}\p{M}]"), regex.compile(r"[\p{Cc}\ufffd]")
    for i, line in enumerate(lines):
        letters = [c for c in line if letter.match(c)]
        cyrillic = [c for c in letters if own.match(c)]
        controls = [c for c in line if control.match(c) and c not in AROUND_A_LINE]
        assert counts.own_letters[i] == len(cyrillic)
        assert counts.foreign_letters[i] == len(letters) - len(cyrillic)
        assert counts.controls[i] == len(controls)
        assert counts.spaces[i] == sum(c in AROUND_A_LINE for c in line)


def test_very_long_lines_do_not_overflow_into_other_counts() -> None:
    counts = CharacterKinds("de").count(["a" * 200_000, "b"], np.array([200_000, 1]))
    assert counts.own_letters.tolist() == [65_535, 1]
    assert counts.controls.tolist() == counts.foreign_letters.tolist() == [0, 0]


def repeated(sentence: list[int], most: int) -> bool:
    """The definition: some pieces stand there more often than that in a row."""
    return any(
        sentence[i : i + n] * (most + 1) == sentence[i : i + n * (most + 1)]
        for n in range(1, LONGEST_REPEATED + 1)
        for i in range(len(sentence) - n * (most + 1) + 1)
    )


SENTENCES = st.lists(
    st.one_of(
        st.lists(st.integers(0, 2), max_size=12),
        st.builds(
            lambda unit, times, rest: unit * times + rest,
            st.lists(st.integers(0, 3), max_size=9),
            st.integers(0, 5),
            st.lists(st.integers(0, 3), max_size=3),
        ),
    ),
    max_size=6,
)


@settings(max_examples=300)
@given(SENTENCES, st.integers(1, 4))
@example([[1, 1], [1, 1]], 2)  # a run across two sentences is none
def test_repetitions_against_their_definition(sentences: list[list[int]], most: int) -> None:
    pieces = np.array([piece for sentence in sentences for piece in sentence], np.uint16)
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    found = repeats(pieces, lengths, most)
    assert found.tolist() == [repeated(sentence, most) for sentence in sentences]
