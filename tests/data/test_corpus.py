"""Reading raw text: what ends a line, and what a damaged or mismatched file is told."""

import bz2
import gzip
import hashlib
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.data.corpus import (
    PairPaths,
    TextReader,
    parse_corpus,
    read_blocks,
    read_lines,
    read_together,
)
from nmtasync.data.decompression import zstd
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


PACKERS = [gzip.compress, bz2.compress, lzma.compress, zstd.compress]


@pytest.mark.parametrize("pack", PACKERS)
def test_compressed_files_and_several_streams_end_to_end(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """Parallel tools write many streams one after the other, also in the middle of a line."""
    path = put(tmp_path / "packed", pack(b"one\ntw") + pack(b"o\n") + pack(b"three"))
    reader = TextReader(path)
    assert list(reader) == ["one", "two", "three"]
    assert reader.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@settings(max_examples=60)
@given(
    st.lists(st.text(alphabet="ab\u3000\r\x85", max_size=9), max_size=30),
    st.integers(1, 7),
    st.integers(1, 40),
    st.booleans(),
)
def test_blocks_are_the_lines_whatever_their_bounds(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    most_lines: int,
    most_bytes: int,
    ended: bool,
) -> None:
    text = "\n".join(lines) + "\n" * (ended and bool(lines))
    directory = tmp_path_factory.mktemp("blocks")
    first = put(directory / "first", text.encode())
    expected = text.encode().split(b"\n")
    if not expected[-1]:
        expected.pop()
    second = put(directory / "second", b"".join(b"%d\n" % i for i in range(len(expected))))
    readers = TextReader(first), TextReader(second)
    found: list[bytes] = []
    with mock.patch("nmtasync.data.corpus.BUFFER_BYTES", 5):
        for start, (block, numbers) in read_blocks(readers, most_lines, most_bytes):
            assert start == len(found) + 1 == int(numbers.split(b"\n")[0]) + 1
            part = block.removesuffix(b"\n").split(b"\n")
            assert len(part) <= most_lines and (len(part) == 1 or len(block) <= most_bytes)
            found += part
    assert found == expected
    assert all(reader.num_lines == len(expected) for reader in readers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=x.de,x.en", PairPaths(Path("x.de"), Path("x.en"), name="a")),
        ("a b=x.tsv@0.25", PairPaths(Path("x.tsv"), None, name="a b", weight=0.25)),
        ("web=-@2", PairPaths(Path("-"), None, name="web", weight=2.0)),
        (
            "mail=me@home.de,you@home.en",
            PairPaths(Path("me@home.de"), Path("you@home.en"), name="mail"),
        ),
    ],
)
def test_corpora_as_the_command_line_names_them(text: str, expected: PairPaths) -> None:
    assert parse_corpus(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "=x,y", "a=", "a=x,y@0", "a=x,y@-1", "a=x@1e9", "a=x,y,z"]
)
def test_what_names_no_corpus_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_corpus(text)


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (b"good\nb\xc3\xa4d \xff here\n", ":2", "byte 0xff at byte 6"),
        (b"\xff\xfeh\x00i\x00\n\x00", ":1", "UTF-8"),  # UTF-16
        (b"a\nb\nc\0d\n", ":3", "NUL"),
        (gzip.compress(b"line\n" * 100_000, mtime=0)[:-20], "", "cut off"),
        (gzip.compress(b"line\n", mtime=0)[:-8] + b"\0" * 8, "", "damaged"),
        *((pack(b"line\n" * 100_000)[:-20], "", "cut off") for pack in PACKERS[1:]),
        *((b"".join([pack(b"line\n"), b"junk"]), "", "damaged") for pack in PACKERS[3:]),
        *((pack(b"line\n" * 9)[:9] + b"\xff" * 30, "", "damaged") for pack in PACKERS[1:]),
        (b"PK\x03\x04", "", "a zip archive"),
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
