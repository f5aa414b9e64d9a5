"""Which pairs are dropped, and for which reason."""

import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.config.schema import DataConfig
from nmtasync.data.cleaning import (
    AROUND_A_LINE,
    Verdict,
    clean_line,
    judge_lengths,
    judge_text,
    mark_duplicates,
    pair_key,
)


def judge(source: int, target: int, max_length: int | None, max_ratio: float | None) -> Verdict:
    filters = max_length and DataConfig(max_length=max_length, max_ratio=max_ratio)
    return Verdict(judge_lengths(np.array([source]), np.array([target]), filters)[0])


def test_length_and_ratio_at_their_bounds() -> None:
    assert judge(100, 100, 100, 4.0) == Verdict.KEPT
    assert judge(101, 100, 100, 4.0) == Verdict.TOO_LONG
    assert judge(100, 101, 100, 4.0) == Verdict.TOO_LONG
    assert judge(20, 80, 100, 4.0) == Verdict.KEPT
    assert judge(20, 81, 100, 4.0) == Verdict.RATIO
    assert judge(81, 20, 100, 4.0) == Verdict.RATIO
    assert judge(81, 20, 80, 4.0) == Verdict.TOO_LONG  # the first reason counts
    assert judge(1, 10_000, None, None) == Verdict.KEPT


def test_short_pairs_are_spared_the_ratio() -> None:
    assert judge(2, 15, 100, 4.0) == Verdict.KEPT  # "Hi." and a longer greeting
    assert judge(2, 16, 100, 4.0) == Verdict.RATIO


def test_empty_sides_before_and_after_segmentation() -> None:
    assert judge_text(clean_line(" \t\u2003\r"), "x", 100) == Verdict.EMPTY
    assert judge(0, 3, 100, 4.0) == Verdict.EMPTY
    assert judge(3, 0, None, None) == Verdict.EMPTY


@given(st.text())
def test_cleaned_text_is_one_line_without_space_around_and_stays_so(text: str) -> None:
    cleaned = clean_line(text)
    assert "\r" not in cleaned and "\n" not in cleaned
    assert cleaned == cleaned.strip().strip("\ufeff") == clean_line(cleaned)
    assert cleaned.split() == text.strip(AROUND_A_LINE).split()


def test_all_kinds_of_space_are_around_a_line() -> None:
    spaces = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert set(AROUND_A_LINE) == {*spaces, "\ufeff"}


def test_text_too_long_for_any_vocabulary() -> None:
    assert judge_text("x" * 640, "y", 10) == Verdict.KEPT
    assert judge_text("x", "y" * 641, 10) == Verdict.TOO_LONG
    assert judge_text("x" * 100_000, "y", None) == Verdict.KEPT


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"))))
def test_duplicates_against_a_set(pairs: list[tuple[str, str]]) -> None:
    keys = np.array([pair_key(*pair) for pair in pairs], dtype=np.uint64)
    verdicts = np.zeros(len(pairs), dtype=np.uint8)
    mark_duplicates(verdicts, keys)
    seen: set[tuple[str, str]] = set()
    for pair, verdict in zip(pairs, verdicts, strict=True):
        assert verdict == (Verdict.DUPLICATE if pair in seen else Verdict.KEPT)
        seen.add(pair)


def test_a_duplicate_of_a_dropped_pair_keeps_its_own_reason() -> None:
    keys = np.array([7, 7, 8], dtype=np.uint64)
    verdicts = np.array([Verdict.EMPTY, Verdict.KEPT, Verdict.KEPT], dtype=np.uint8)
    mark_duplicates(verdicts, keys)
    assert verdicts.tolist() == [Verdict.EMPTY, Verdict.KEPT, Verdict.KEPT]


def test_the_border_between_the_sides_counts() -> None:
    assert pair_key("a b", "c") != pair_key("a", "b c")
    assert pair_key("ab", "c") != pair_key("a", "bc")
