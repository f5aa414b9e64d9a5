"""Pairs that occurred before, or must not be trained on."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.preprocessing import duplicates
from nmtasync.preprocessing.duplicates import (
    KEY,
    count_shared,
    mark_repeated,
    mark_shared,
    pair_keys,
    text_keys,
)
from nmtasync.preprocessing.rules import Verdict

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")))


@given(PAIRS, st.sets(st.integers(0, 20)), st.integers(1, 7))
def test_duplicates_against_a_set(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[str, str]],
    dropped: set[int],
    in_memory: int,
) -> None:
    """Whether all keys fit into memory or lie in files; pairs dropped before do not count."""
    keys = np.frombuffer(pair_keys(*zip(*pairs, strict=True)) if pairs else b"", KEY)
    verdicts = np.zeros(len(pairs), np.uint8)
    verdicts[[i for i in dropped if i < len(pairs)]] = Verdict.PROTECTED
    scratch = tmp_path_factory.mktemp("keys")
    with mock.patch.object(duplicates, "SORTED_KEYS", in_memory):
        mark_repeated(verdicts, keys, Verdict.DUPLICATE, scratch)
    assert not list(scratch.iterdir())
    seen: set[tuple[str, str]] = set()
    for i, (pair, verdict) in enumerate(zip(pairs, verdicts, strict=True)):
        if i in dropped:
            assert verdict == Verdict.PROTECTED
            continue
        assert verdict == (Verdict.DUPLICATE if pair in seen else Verdict.KEPT)
        seen.add(pair)


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")), st.integers(1, 5))
def test_shared_keys_against_sets(first: list[str], second: list[str], in_memory: int) -> None:
    keys, others = (np.frombuffer(text_keys(texts), KEY) for texts in (first, second))
    verdicts = np.zeros(len(first), np.uint8)
    with mock.patch.object(duplicates, "SORTED_KEYS", in_memory):
        mark_shared(verdicts, keys, others)
        assert count_shared(keys, others) == sum(text in set(second) for text in first)
    assert [v == Verdict.PROTECTED for v in verdicts] == [text in set(second) for text in first]


def test_the_border_between_the_sides_counts() -> None:
    assert pair_keys(["a b"], ["c"]) != pair_keys(["a"], ["b c"])
    assert pair_keys(["ab"], ["c"]) != pair_keys(["a"], ["bc"])
