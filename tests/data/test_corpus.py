"""Reading raw text: what ends a line, and what a damaged or mismatched file is told."""

import gzip
import hashlib
import os
import threading
from pathlib import Path

import pytest

from nmtasync.data.corpus import TextReader, read_lines, read_together
from nmtasync.errors import UserError


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    # str.splitlines, or text mode, would cut at each of these and shift all later pairs
    inside = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\rh"
    path = put(tmp_path / "t", f"\ufeffone\r\n{inside}\n\nlast".encode())
    assert read_lines(path) == ["one", inside, "", "last"]


def test_gzip_is_known_by_its_content_and_plain_by_its(tmp_path: Path) -> None:
    text = "".join(f"Zeile {i}\n" for i in range(1000)).encode()
    members = gzip.compress(text[:500]) + gzip.compress(text[500:])  # as `cat a.gz b.gz` makes
    expected = text.decode().split("\n")[:-1]
    assert read_lines(put(tmp_path / "plain.gz", text)) == expected
    reader = TextReader(put(tmp_path / "zipped", members))
    assert list(reader) == expected
    assert reader.sha256 == hashlib.sha256(members).hexdigest()


def test_pipes_are_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(b"x\ny\n"),))
    writer.start()
    other = put(tmp_path / "other", b"1\n2\n")
    assert list(read_together(TextReader(pipe), TextReader(other))) == [("x", "1"), ("y", "2")]
    writer.join()


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (b"good\nb\xc3\xa4d \xff here\n", ":2", "byte 0xff at byte 6"),
        (b"\xff\xfeh\x00i\x00\n\x00", ":1", "UTF-8"),  # UTF-16
        (b"a\nb\nc\0d\n", ":3", "NUL"),
        (gzip.compress(b"line\n" * 100_000, mtime=0)[:-20], "", "cut off"),
        (gzip.compress(b"line\n", mtime=0)[:-8] + b"\0" * 8, "", "damaged"),
        (b"\xfd7zXZ\x00junk", "", "compressed with xz"),
    ],
)
def test_bad_content_is_told_with_its_line(
    tmp_path: Path, content: bytes, place: str, words: str
) -> None:
    path = put(tmp_path / "bad", content)
    with pytest.raises(UserError) as caught:
        read_lines(path)
    assert caught.value.where is not None
    assert caught.value.where.startswith(f"{path}{place}")
    assert words in str(caught.value)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_lines(tmp_path / "absent")
    with pytest.raises(UserError, match="is a directory"):
        read_lines(tmp_path)


@pytest.mark.parametrize(("num_source", "num_target"), [(3, 5), (5, 3), (0, 2)])
def test_unequal_sides_name_both_counts_and_the_first_line_alone(
    tmp_path: Path, num_source: int, num_target: int
) -> None:
    source = put(tmp_path / "source", b"s\n" * num_source)
    target = put(tmp_path / "target", b"t\n" * num_target)
    with pytest.raises(UserError) as caught:
        list(read_together(TextReader(source), TextReader(target)))
    longer = source if num_source > num_target else target
    assert caught.value.where == f"{longer}:{min(num_source, num_target) + 1}"
    assert f"{source} has {num_source} lines" in str(caught.value)
    assert f"{target} has {num_target}" in str(caught.value)
