"""Whatever bytes a corpus has, plain or compressed: counted to the pair, or refused in a line."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.data.decompression import zstd
from nmtasync.errors import UserError
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": functools.partial(gzip.compress, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}
SENTENCES = [f"der Hund {i} sieht die Katze".encode() for i in range(40)]
NASTY = ["", "\r", " ", "a\tb", "\ufeff", "ha " * 60, "1 2 3 4", "\x1f\x8b", "BZh", "\0", "\x01"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=20)
LINES = st.one_of(
    st.sampled_from(SENTENCES),
    st.one_of(TEXTS, st.sampled_from(NASTY)).map(str.encode),
)
SIDES = st.lists(st.tuples(LINES, LINES), min_size=1, max_size=12).map(
    lambda pairs: tuple(
        b"".join(line + b"\n" for line in side) for side in zip(*pairs, strict=True)
    )
)
RARELY = st.sampled_from([False] * 4 + [True])
DAMAGES = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 200), st.just(b"")),
    st.tuples(st.just("flip"), st.integers(0, 200), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("insert"), st.integers(0, 200), st.binary(min_size=1, max_size=8)),
)


def damaged(packed: bytes, damage: tuple[str, int, bytes]) -> bytes:
    kind, place, content = damage
    place = min(place, len(packed))
    rest = {"cut": len(packed), "flip": place + len(content), "insert": place}[kind]
    return packed[:place] + content + packed[rest:]


def count_lines(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n") and content != b"")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "some.model"
    text = list(map(bytes.decode, SENTENCES))
    path.write_bytes(learn_vocabulary(text, DataConfig(vocab_size=290)).model)
    return path


@pytest.mark.slow
@settings(max_examples=100)
@given(
    sides=SIDES,
    junk=st.tuples(RARELY, st.binary(max_size=12)),
    packers=st.tuples(*[st.sampled_from(sorted(PACKERS))] * 2),
    damage=st.tuples(RARELY, DAMAGES),
)
def test_pairs_are_kept_or_dropped_for_a_reason_or_the_line_is_named(
    model, tmp_path_factory, sides, junk, packers, damage
):
    directory = tmp_path_factory.mktemp("any")
    texts = (sides[0] + junk[1], sides[1]) if junk[0] else sides
    files = [directory / "some.src", directory / "some.tgt"]
    packed = [PACKERS[name](text) for name, text in zip(packers, texts, strict=True)]
    files[0].write_bytes(damaged(packed[0], damage[1]) if damage[0] else packed[0])
    files[1].write_bytes(packed[1])
    for name in ("valid.src", "valid.tgt"):
        (directory / name).write_bytes(b"\n".join(SENTENCES[:3]))
    run = RunDirectory(directory / "run")
    valid = [PairPaths(directory / "valid.src", directory / "valid.tgt")]
    config = DataConfig(vocab_model=str(model), joint_vocabulary=True)
    try:
        report = preprocess(run, [PairPaths(*files)], valid, config, num_processes=1)
    except UserError as error:
        assert "\n" not in str(error)
        assert re.search(rf"{directory}/some\.(src|tgt)", str(error)), error
        assert not (run.root / "manifest.json").exists()
        if "line" in str(error) and not damage[0]:
            assert re.search(r"some\.(src|tgt):\d+", str(error)), error
        return
    train = report.train
    assert train.num_read == train.num_kept + sum(each.num_pairs for each in train.dropped)
    if not damage[0]:
        assert train.num_read == count_lines(texts[0]) == count_lines(texts[1])
