"""What every reader does to a line."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from nmtasync.data.cleaning import AROUND_A_LINE, clean_line


@given(st.text())
def test_cleaned_text_is_one_line_without_space_around_and_stays_so(text: str) -> None:
    cleaned = clean_line(text)
    assert "\r" not in cleaned and "\n" not in cleaned
    assert cleaned == cleaned.strip().strip("\ufeff") == clean_line(cleaned)
    assert cleaned.split() == text.strip(AROUND_A_LINE).split()


def test_all_kinds_of_space_are_around_a_line() -> None:
    spaces = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert set(AROUND_A_LINE) == {*spaces, "\ufeff"}
