"""Where translations are marked as different."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.report.words import MAX_CHARACTERS, Piece, mark


def differing(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.differs]


def off(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.off]


def test_the_first_is_compared_with_all_and_the_others_with_the_first() -> None:
    first, second, third = mark(["a b c d", "a x y d", "a b c d e"], None)
    assert (differing(first), differing(second), differing(third)) == (["b c"], ["x y"], ["e"])
    assert not off(first) and not off(second)


def test_what_the_reference_lacks_is_marked_apart_from_that() -> None:
    first, second = mark(
        ["Two men sit, here.", "Two men stand here."], "Two men are standing here."
    )
    assert (differing(first), off(first)) == (["sit,"], ["sit,"])
    assert (differing(second), off(second)) == (["stand"], ["stand"])
    (alone,) = mark(["Two cats sit."], "Two men sit.")
    assert (differing(alone), off(alone)) == ([], ["cats"])


def test_characters_are_compared_where_no_spaces_part_words() -> None:
    first, second = mark(["我喜欢公园", "我喜爱公园"], None, characters=True)
    assert (differing(first), differing(second)) == (["欢"], ["爱"])


@settings(max_examples=60)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3), st.none() | st.text(max_size=30))
def test_pieces_are_the_text(hypotheses: list[str], reference: str | None) -> None:
    for text, pieces in zip(hypotheses, mark(hypotheses, reference), strict=True):
        assert "".join(piece.text for piece in pieces) == text


def test_a_very_long_line_is_cut() -> None:
    (pieces,) = mark(["a b " * MAX_CHARACTERS], "b a " * MAX_CHARACTERS)
    assert sum(len(piece.text) for piece in pieces) == MAX_CHARACTERS
