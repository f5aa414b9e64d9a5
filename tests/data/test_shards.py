"""Binarised corpora: what is written is what is read, and damage is noticed."""

import json
import pickle
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.data import journaled_files
from nmtasync.data.shards import CorpusPart, ParallelShards
from nmtasync.data.shards_writer import ShardsWriter
from nmtasync.errors import UserError
from tests.support.shards import append, write_shards

Sentences = list[list[int]]


def write(directory: Path, pairs: list[tuple[list[int], list[int]]], chunk: int, size: int) -> None:
    with ShardsWriter(directory, size, size) as writer:
        for start in range(0, len(pairs), chunk):
            part = pairs[start : start + chunk]
            append(writer, [source for source, _ in part], [target for _, target in part])
        writer.finish()


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(4, 65_535), max_size=5),
            st.lists(st.integers(4, 65_535), max_size=5),
        ),
        max_size=7,
    ),
    st.integers(1, 3),
    st.sampled_from([65_536, 65_537]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[list[int], list[int]]],
    chunk: int,
    size: int,
) -> None:
    directory = tmp_path_factory.mktemp("shards") / "corpus"
    write(directory, pairs, chunk, size)
    shards = pickle.loads(pickle.dumps(ParallelShards.open(directory)))
    assert len(shards) == len(pairs)
    for i, (source, target) in enumerate(pairs):
        here = slice(i, i + 2)
        assert shards.source_tokens[slice(*shards.source_offsets[here])].tolist() == source
        assert shards.target_tokens[slice(*shards.target_offsets[here])].tolist() == target
    assert shards.source_lengths.tolist() == [len(source) for source, _ in pairs]
    assert shards.target_lengths.tolist() == [len(target) for _, target in pairs]


def test_the_largest_id_of_each_width_survives(tmp_path: Path) -> None:
    for size in (65_536, 65_537, 200_000):
        directory = tmp_path / str(size)
        write(directory, [([size - 1], [4, size - 1])], 1, size)
        shards = ParallelShards.open(directory)
        assert shards.target_tokens.tolist() == [4, size - 1]
        assert shards.source_tokens.itemsize == (2 if size <= 65_536 else 4)


@settings(max_examples=40)
@given(st.integers(1, 40), st.lists(st.integers(0, 40), max_size=3), st.integers(1, 5))
def test_a_writer_that_was_cut_off_is_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, num_pairs: int, stops: list[int], every: int
) -> None:
    """Each attempt writes some pairs one by one and vanishes, with what is in no commit lost."""
    directory = tmp_path_factory.mktemp("shards") / "corpus"
    with mock.patch.object(journaled_files, "COMMIT_CHUNKS", every):
        for stop in [*stops, num_pairs]:
            with ShardsWriter(directory, 100, 100, text=True) as writer:
                done = writer.state or 0
                assert done == writer.num_pairs
                for i in range(done, min(stop, num_pairs)):
                    ids = [[4 + i] * (i % 3)]
                    append(writer, ids, ids, state=i + 1, texts=(b"%d\n" % i, b"x\n"))
    with ShardsWriter(directory, 100, 100, text=True) as writer:
        if writer.num_pairs < num_pairs:  # closed, but never committed
            for i in range(writer.num_pairs, num_pairs):
                ids = [[4 + i] * (i % 3)]
                append(writer, ids, ids, state=i + 1, texts=(b"%d\n" % i, b"x\n"))
        writer.finish()
    shards = ParallelShards.open(directory)
    assert shards.source_tokens.tolist() == [4 + i for i in range(num_pairs) for _ in range(i % 3)]
    assert shards.target_lengths.tolist() == [i % 3 for i in range(num_pairs)]
    assert (directory / "source.txt").read_text() == "".join(f"{i}\n" for i in range(num_pairs))


def test_writing_needs_little_memory(tmp_path: Path) -> None:
    chunk: Sentences = [[5] * 50 for _ in range(200)]
    tracemalloc.start()
    with ShardsWriter(tmp_path / "corpus", 100, 100) as writer:
        for _ in range(100):
            append(writer, chunk, chunk)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    written_bytes = (tmp_path / "corpus" / "source.tokens").stat().st_size
    assert written_bytes == 2_000_000
    assert peak_bytes < written_bytes / 4


@pytest.mark.parametrize("name", ["source.tokens", "target.offsets", "shards.json"])
def test_cut_or_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "corpus"
    write(directory, [([5, 6], [7])], 1, 100)
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match="preprocess again"):
        ParallelShards.open(directory)
    (directory / name).unlink()
    with pytest.raises(UserError, match="preprocess again"):
        ParallelShards.open(directory)


def test_pickling_copies_no_tokens(tmp_path: Path) -> None:
    write(tmp_path / "corpus", [([5] * 10_000, [6] * 10_000)], 1, 100)
    shards = ParallelShards.open(tmp_path / "corpus")
    assert isinstance(shards.source_tokens, np.memmap)
    assert len(pickle.dumps(shards)) < 1000


def test_the_corpora_that_pairs_come_from_are_kept(tmp_path: Path) -> None:
    parts = (
        CorpusPart("news", 1, 2.5),
        CorpusPart("web \u2014 crawled", 0),
        CorpusPart("", 2, 0.5),
    )
    write_shards(tmp_path / "corpus", [[5], [6], [7]], [[5], [6], [7]], corpora=parts)
    assert ParallelShards.open(tmp_path / "corpus").corpora == parts
    write(tmp_path / "plain", [([5], [6])], 1, 100)
    (only,) = ParallelShards.open(tmp_path / "plain").corpora
    assert (only.pairs, only.weight) == (1, 1.0)
    assert "corpora" not in json.loads((tmp_path / "plain/shards.json").read_text("utf-8"))


def test_corpora_that_are_not_those_of_the_pairs_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not have 1 pairs together"):
        write_shards(tmp_path / "corpus", [[5]], [[6]], corpora=[CorpusPart("news", 2)])
    assert not (tmp_path / "corpus" / "shards.json").exists()


@pytest.mark.parametrize(
    "corpora",
    [
        [],
        [{"name": "a", "pairs": 2}],
        [{"name": "a", "pairs": 4, "weight": 1.0}, {"name": "b", "pairs": -1, "weight": 1.0}],
        [{"name": "a", "pairs": 3, "weight": 0.0}],
        [{"name": "a", "pairs": 3, "weight": -1.0}],
        [{"name": "a", "pairs": 3, "weight": 1e9}],
        [{"name": "a", "pairs": 3, "weight": float("nan")}],
        [{"name": "a", "pairs": 3, "weight": "1"}],
        [{"name": "a", "pairs": 3, "weight": 0.3}],
        [{"name": "a", "pairs": 3, "weight": 1.0, "path": "/etc"}],
        {"a": 3},
        3,
    ],
)
def test_corpora_that_can_not_be_are_refused(tmp_path: Path, corpora: object) -> None:
    write(tmp_path / "corpus", [([5], [6])] * 3, 1, 100)
    path = tmp_path / "corpus/shards.json"
    description = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**description, "corpora": corpora}), "utf-8")
    with pytest.raises(UserError, match=r"shards\.json: is damaged: .*preprocess again"):
        ParallelShards.open(tmp_path / "corpus")
