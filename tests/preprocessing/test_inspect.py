"""The figures of `inspect` against plain counting."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.data.shards import CorpusPart
from nmtasync.data.vocabulary import UNK, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.preprocessing import inspect as inspect_module
from nmtasync.preprocessing import piece_counts
from nmtasync.preprocessing.inspect import Wanted, inspect
from nmtasync.preprocessing.piece_counts import Distribution, PieceCounts
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from tests.support.shards import write_shards

SHARES = {"5%": 0.05, "median": 0.5, "95%": 0.95, "99%": 0.99}


def described(values: list[float]) -> dict[str, float]:
    line = sorted(values)
    quantiles = {name: line[math.ceil(len(line) * q) - 1] for name, q in SHARES.items()}
    return {"min": line[0], **quantiles, "mean": sum(line) / len(line), "max": line[-1]}


@pytest.fixture
def byte_run(tmp_path: Path, toy_corpus: Path) -> RunDirectory:
    """A RUN with bytes, whose corpora are then replaced."""
    run = RunDirectory(tmp_path / "run")
    pairs = [
        PairPaths(toy_corpus / f"{p}.src", toy_corpus / f"{p}.tgt") for p in ("train", "valid")
    ]
    options = DataConfig(vocab_size=300, deduplicate=False, drop_protected=False, max_length=10)
    preprocess(run, pairs[:1], pairs[1:], options)
    return run


def random_side(rng: random.Random, number: int, size: int) -> list[list[int]]:
    """Sentences with some pieces of every kind, also empty ones."""
    return [
        [rng.choice((1, 5, rng.randrange(4, size))) for _ in range(rng.randrange(14))]
        for _ in range(number)
    ]


def test_figures_are_those_of_plain_counting(
    byte_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_module, "_CHUNK_PAIRS", 17)
    monkeypatch.setattr(piece_counts, "_CHUNK_TOKENS", 5)
    pair = VocabularyPair.load(byte_run.vocab)
    spelled = pair.source.pieces()
    size = len(spelled)
    of_bytes = {i for i, piece in enumerate(spelled) if piece.startswith("<0x")}
    rng = random.Random(3)
    sides = {side: random_side(rng, 100, size) for side in ("source", "target")}
    corpora = [CorpusPart("a", 30), CorpusPart("b", 70, 2.0)]
    write_shards(byte_run.data / "train", *sides.values(), size, corpora=corpora)
    content = inspect(byte_run, Wanted(pieces=size, pairs=7)).to_json()["train"]
    for found, begin, end in (
        (content, 0, 100),
        (content["corpora"][0], 0, 30),
        (content["corpora"][1], 30, 100),
    ):
        part = {side: lines[begin:end] for side, lines in sides.items()}
        both = list(zip(*part.values(), strict=True))
        assert found["pairs"] == end - begin
        assert found["ratios"] == pytest.approx(
            described([len(t) / len(s) for s, t in both if s and t])
        )
        near = sum(max(len(s), len(t)) >= 9 for s, t in both)
        assert found["near_max_length"] == near > 0
        seen = {i for lines in part.values() for line in lines for i in line}
        never = set(range(4, size)) - of_bytes - seen
        assert set(found["joint_coverage"]["never"]) == {spelled[i] for i in never}
        for side, lines in part.items():
            assert found[side]["lengths"] == pytest.approx(described([len(x) for x in lines]))
            counts = Counter(i for line in lines for i in line)
            assert found[side]["pieces"] == counts.total()
            for group, ids in ("bytes", of_bytes), ("unknown", {UNK}):
                figures = found[side][group]
                assert figures["pieces"] == sum(counts[i] for i in ids)
                assert figures["share"] == pytest.approx(figures["pieces"] / counts.total())
                with_some = sum(not ids.isdisjoint(line) for line in lines)
                assert 0 < figures["sentences"] == with_some < len(lines)
            text = set(range(4, size)) - of_bytes
            coverage = found[side]["coverage"]
            assert coverage["vocabulary"] == len(text)
            assert coverage["occurring"] == len(text & counts.keys())
            assert set(coverage["never"]) == {spelled[i] for i in text - counts.keys()}
            listed = {each["piece"]: each["count"] for each in found[side]["commonest"]}
            assert listed == {spelled[i]: n for i, n in counts.items()}
            assert list(listed.values()) == sorted(listed.values(), reverse=True)
    assert [each["weight"] for each in content["corpora"]] == [1.0, 2.0]
    for place, drawn in enumerate(content["sample"]):
        number = drawn["number"] - 1
        assert 100 * place // 7 <= number < 100 * (place + 1) // 7
        assert drawn["corpus"] == ("a" if number < 30 else "b")
        for side, lines in sides.items():
            assert drawn[side]["pieces"] == [spelled[i] for i in lines[number]]


def test_a_sentence_over_several_chunks_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_counts, "_CHUNK_TOKENS", 2)
    counts = PieceCounts(6, [5])
    counts.add(np.array([5, 5, 5, 5, 5, 1, 5], np.uint16), np.array([0, 0, 5, 6, 6, 7]))
    assert counts.sentences_with == {"bytes": 2, "unknown": 1}
    assert counts.counts.tolist() == [0, 1, 0, 0, 0, 6]


def test_no_values_have_no_figures() -> None:
    assert Distribution().to_json() is None


def test_a_piece_beyond_the_vocabulary_is_refused(byte_run: RunDirectory) -> None:
    write_shards(byte_run.data / "valid", [[4]], [[999]], 1000)
    with pytest.raises(UserError, match="does not have"):
        inspect(byte_run, Wanted())
