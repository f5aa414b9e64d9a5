"""Word alignments, from their file to links of pieces in a batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nmtasync.config.schema import DataConfig
from nmtasync.data.alignment import Segmented, align_pieces, parse_alignment
from nmtasync.data.batches import collate
from nmtasync.data.corpus import PairPaths
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line

TEXT = ["ab cd ef gh ij kl mn op", "abcd efgh ijkl mnop", "a b c d e f g h i j k l m n o p"] * 30


def test_links_are_read_as_they_are_written() -> None:
    assert parse_alignment("0-0  2-1\t0-1", "a b c", "x y", "f:1") == [(0, 0), (2, 1), (0, 1)]
    assert parse_alignment("", "a", "x", "f:1") == []
    assert parse_alignment("1-0", "a\u3000b", " x ", "f:1") == [(1, 0)]


@pytest.mark.parametrize(
    "line", ["0:0", "0-0-1", "0-0 1", "-1-0", "0-", "0p0", "\u0661-0", "NULL-0", f"{5000 * '9'}-0"]
)
def test_other_forms_are_refused(line: str) -> None:
    with pytest.raises(UserError, match="is no link") as caught:
        parse_alignment(line, "a b", "x y", "f:7")
    assert caught.value.where == "f:7"


@pytest.mark.parametrize("line", ["2-0", "0-3", "1-1 2-3"])
def test_links_out_of_the_pair_are_refused(line: str) -> None:
    """As those of files that count from one."""
    with pytest.raises(UserError, match="pair of 2 and 3 words"):
        parse_alignment(line, "a b", "x y z", "f:7")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ab cd", [["ab"], ["cd"]]),
        ("a \u00b4b c", [["a"], ["\u0301b"], ["c"]]),  # an accent that becomes a space and one
        ("a\u00b4b c", [["a \u0301b"], ["c"]]),
        ("a\u3000b  c", [["a"], ["b"], ["c"]]),
        ("\u65e5\u672c b \U0001d11e", [["\u65e5\u672c"], ["b"], ["\U0001d11e"]]),  # in bytes
        ("a \u200b b", [["a"], [], ["b"]]),  # a word that vanishes
        ("\u200b a\u200b b\u200b", [[], ["a"], ["b"]]),
        ("\u00bd \ufb01 a", [["1\u20442"], ["fi"], ["a"]]),  # one character becomes several
    ],
)
def test_pieces_belong_to_their_words(line: str, words: list[list[str]]) -> None:
    vocabulary = learn_vocabulary(TEXT, DataConfig(vocab_size=290))
    (segmented,) = vocabulary.segment([line])
    assert segmented.ids == vocabulary.encode([line])[0]
    numbers = segmented.words(line)
    assert sorted(numbers) == numbers
    texts = []
    for number in range(len(words)):
        own = [i for i, of in zip(segmented.ids, numbers, strict=True) if of == number]
        texts.append([vocabulary.decode([own])[0].strip()] if own else [])
    assert texts == words


def test_pieces_of_linked_words_are_linked() -> None:
    assert align_pieces([(0, 1), (2, 1), (1, 0), (0, 1)], [0, 0, 1, 2], [0, 1, 1, 2]) == [
        *[(2, 0)],
        *[(0, 1), (1, 1), (3, 1)],
        *[(0, 2), (1, 2), (3, 2)],
        *[(4, 4)],  # the ends; target piece 3 has no partner
    ]
    assert Segmented([5], [(0, 0)]).words("a") == [0]


def aligned_corpus(directory: Path) -> PairPaths:
    """Pairs in another order of words, with what cleaning drops among them."""
    sources = ["ab cd", "", "abcd ef", "ab cd", "mnop abcd kl", *TEXT]
    targets = ["cd ab", "kl", *(" ".join(line.split()[::-1]) for line in sources[2:])]
    links = []
    for source, target in zip(sources, targets, strict=True):
        n = len(source.split())
        links.append(" ".join(f"{i}-{n - 1 - i}" for i in range(n)) if n and target else "")
    links[3] = "0-0"  # of a duplicate
    for name, lines in (("src", sources), ("tgt", targets), ("links", links)):
        (directory / f"train.{name}").write_text("".join(x + "\n" for x in lines), "utf-8")
    return PairPaths(*(directory / f"train.{name}" for name in ("src", "tgt", "links")))


@pytest.fixture
def aligned_run(tmp_path: Path) -> RunDirectory:
    """A preprocessed corpus with alignments."""
    paths = aligned_corpus(tmp_path)
    run = RunDirectory(tmp_path / "run")
    valid = PairPaths(paths.source, paths.target)
    preprocess(run, [paths], [valid], DataConfig(vocab_size=290, drop_protected=False))
    return run


def test_links_stay_with_their_pairs_and_say_the_same_text(aligned_run: RunDirectory) -> None:
    vocabularies = VocabularyPair.load(aligned_run.vocab)
    corpus = ParallelShards.open(aligned_run.data / "train")
    assert len(corpus) == 6  # without the empty one and duplicates
    batch = collate(corpus, range(len(corpus)), aligned=True)
    assert batch.alignment is not None
    size = (*batch.target.shape, batch.source.shape[1])
    rows, targets, sources = np.unravel_index(batch.alignment.links.numpy(), size)
    totals = np.zeros(size[:2])
    np.add.at(totals, (rows, targets), batch.alignment.shares.numpy())
    assert np.allclose(totals, batch.target != 0, atol=1e-6)  # each word has a partner
    for row in range(len(corpus)):
        for target in range(int((batch.target[row] != 0).sum())):
            linked = sources[(rows == row) & (targets == target)]
            (piece,) = vocabularies.target.decode([[int(batch.target[row, target])]])
            word = vocabularies.source.decode([batch.source[row, linked].tolist()])[0]
            assert piece.strip() in word
    assert collate(corpus, [0]).alignment is None
    manifest = json.loads(aligned_run.manifest.read_text("utf-8"))
    assert [entry["side"] for entry in manifest["inputs"]][:3] == ["source", "target", "alignment"]
    assert "data/train/alignment.links" in manifest["outputs"]


def test_everything_else_is_as_without_alignments(
    tmp_path: Path, aligned_run: RunDirectory
) -> None:
    paths = PairPaths(tmp_path / "train.src", tmp_path / "train.tgt")
    plain = RunDirectory(tmp_path / "plain")
    preprocess(plain, [paths], [paths], DataConfig(vocab_size=290, drop_protected=False))
    for name in ("source.tokens", "source.offsets", "target.tokens", "target.offsets"):
        ours, theirs = (run.data / "train" / name for run in (aligned_run, plain))
        assert ours.read_bytes() == theirs.read_bytes()
    assert ParallelShards.open(plain.data / "train").alignment is None
    assert not list(plain.data.rglob("alignment*"))


def test_damaged_links_are_noticed(aligned_run: RunDirectory) -> None:
    path = aligned_run.data / "train" / "alignment.links"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged"):
        ParallelShards.open(aligned_run.data / "train")


@pytest.mark.parametrize("more", [1, -1])
def test_an_alignment_of_another_length_is_refused(tmp_path: Path, more: int) -> None:
    paths = aligned_corpus(tmp_path)
    assert paths.alignment is not None
    num_pairs = len(TEXT) + 5
    lines = [*paths.alignment.read_text().splitlines(), ""][: num_pairs + more]
    paths.alignment.write_text("".join(line + "\n" for line in lines))
    valid = PairPaths(paths.source, paths.target)
    with pytest.raises(UserError, match=f"links has {num_pairs + more}") as caught:
        preprocess(RunDirectory(tmp_path / "run"), [paths], [valid], DataConfig(vocab_size=290))
    longest, first_alone = (paths.alignment, 1) if more > 0 else (paths.target, 0)
    assert caught.value.where == f"{longest}:{num_pairs + first_alone}"


def test_the_command_line_names_the_line_of_a_bad_link(
    tmp_path: Path, nmtasync: CommandLine
) -> None:
    paths = aligned_corpus(tmp_path)
    assert paths.alignment is not None
    lines = paths.alignment.read_text().splitlines()
    lines[2] = "0-1 1-9"
    paths.alignment.write_text("\n".join(lines) + "\n")
    sides = paths.source, paths.target
    call = ["preprocess", tmp_path / "run", "--train", *sides, "--valid", *sides]
    bad = nmtasync(*call, "--alignments", paths.alignment)
    assert bad.returncode == 2
    assert f"{paths.alignment}:3" in one_line(bad.stderr) and "1-9" in bad.stderr
    assert not (tmp_path / "run" / "data").exists()
    twice = nmtasync(*call, *["--alignments", paths.alignment] * 2)
    assert twice.returncode == 2 and "--alignments" in one_line(twice.stderr)
