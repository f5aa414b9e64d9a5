"""The stage: what it keeps, that it is all or nothing, and that equal inputs give equal bytes."""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtasync.config.load import read_toml
from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths, read_lines
from nmtasync.data.shards import SOURCE_TEXT, TARGET_TEXT, ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.preprocessing.all_or_nothing import all_or_nothing
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from tests.support.repository import REPOSITORY

SMALL = DataConfig(vocab_size=330, max_length=40)

Pairs = list[tuple[str, str]]


def sentences(num_pairs: int, seed: int) -> Pairs:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 5))) for _ in range(100)]
    lines = [rng.choices(words, k=rng.randint(3, 8)) for _ in range(num_pairs)]
    return [(" ".join(line), " ".join(reversed(line)).upper()) for line in lines]


def put(directory: Path, name: str, pairs: Pairs) -> PairPaths:
    paths = PairPaths(directory / f"{name}.src", directory / f"{name}.tgt")
    paths.source.write_text("".join(source + "\n" for source, _ in pairs), "utf-8")
    paths.target.write_text("".join(target + "\n" for _, target in pairs), "utf-8")
    return paths


@pytest.fixture
def valid(tmp_path: Path) -> PairPaths:
    return put(tmp_path, "valid", sentences(20, seed=2))


def tree(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_what_is_kept_can_be_read_back(tmp_path: Path, valid: PairPaths) -> None:
    good = sentences(200, seed=1)
    bad = [
        ("", "target alone"),
        good[3],
        ("x" * 60 * 40, "much too long in any vocabulary" * 100),
        ("ab " * 41, "CD " * 41),
        ("a", "A B C D E F G H B A D C F E H G"),
        ("\u200b", "nothing that is visible"),
    ]
    corpora = [put(tmp_path, "one", good[:150]), put(tmp_path, "two", bad + good[150:])]
    run = RunDirectory(tmp_path / "run")
    report = preprocess(run, corpora, [valid], replace(SMALL, max_ratio=12.0))

    shards = ParallelShards.open(run.data / "train")
    vocabularies = VocabularyPair.load(run.vocab)
    source_ids = np.split(shards.source_tokens, shards.source_offsets[1:-1])
    target_ids = np.split(shards.target_tokens, shards.target_offsets[1:-1])
    sources = vocabularies.source.decode([ids.tolist() for ids in source_ids])
    targets = vocabularies.target.decode([ids.tolist() for ids in target_ids])
    assert list(zip(sources, targets, strict=True)) == good
    assert (report.train.num_read, report.train.num_kept) == (206, 200)
    two = corpora[1].source
    assert {d.reason: (d.num_pairs, d.example) for d in report.train.dropped} == {
        "empty side": (1, f"{two}:1"),
        "few letters": (1, f"{two}:6"),
        "duplicate": (1, f"{two}:2"),
        "too long": (2, f"{two}:3"),
        "length ratio": (1, f"{two}:5"),
    }
    assert report.train.source_words == sum(len(source.split()) for source, _ in good)
    assert report.train.source_pieces == int(shards.source_lengths.sum())


def test_validation_keeps_all_but_empty_sides_and_its_text(tmp_path: Path) -> None:
    good = sentences(100, seed=1)
    line = "Zeile\u2028mit \x85 seltsamen\x0bTrennern"
    pairs = [("a " * 500, "b"), ("c", ""), (line, line), good[0], good[0]]
    run = RunDirectory(tmp_path / "run")
    train, valid = put(tmp_path, "train", good), put(tmp_path, "valid", pairs)
    report = preprocess(run, [train], [valid], SMALL)
    kept = [("a " * 499 + "a", "b"), (line, line), good[0], good[0]]
    texts = [read_lines(run.data / "valid" / name) for name in (SOURCE_TEXT, TARGET_TEXT)]
    assert list(zip(*texts, strict=True)) == kept
    assert len(ParallelShards.open(run.data / "valid")) == 4
    assert report.overlap == 2
    notes = " ".join(report.notes)
    for words in (f"{valid.source}:2", "longest validation sentence", "in the training files too"):
        assert words in notes


def test_options_change_what_is_dropped(tmp_path: Path, valid: PairPaths) -> None:
    pairs = sentences(100, seed=1)
    train = put(tmp_path, "train", [*pairs, *pairs, ("ab", "CD " * 30)])
    options = DataConfig(
        vocab_size=330,
        deduplicate=False,
        max_ratio=None,
        max_repetitions=None,
        joint_vocabulary=False,
    )
    run = RunDirectory(tmp_path / "run")
    assert preprocess(run, [train], [valid], options).train.num_kept == 201
    vocabularies = VocabularyPair.load(run.vocab)
    assert not vocabularies.joint
    assert vocabularies.source.model != vocabularies.target.model
    settings = read_toml(run.config)
    assert settings["data.max_ratio"] is None
    assert all(name.startswith("data.") for name in settings)


def test_equal_inputs_give_equal_bytes_also_zipped(tmp_path: Path, valid: PairPaths) -> None:
    train = put(tmp_path, "train", sentences(150, seed=1))
    preprocess(RunDirectory(tmp_path / "a"), [train], [valid], SMALL)
    preprocess(RunDirectory(tmp_path / "b"), [train], [valid], SMALL)
    first = tree(tmp_path / "a")
    assert first == tree(tmp_path / "b")
    zipped = PairPaths(tmp_path / "s.gz", tmp_path / "t.gz")
    zipped.source.write_bytes(gzip.compress(train.source.read_bytes()))
    zipped.target.write_bytes(gzip.compress(train.target.read_bytes()))
    preprocess(RunDirectory(tmp_path / "c"), [zipped], [valid], SMALL)
    third = tree(tmp_path / "c")
    del first["manifest.json"], third["manifest.json"]
    assert first == third


def test_the_manifest_names_what_was_read_and_written(tmp_path: Path, valid: PairPaths) -> None:
    train = put(tmp_path, "train", sentences(150, seed=1))
    run = RunDirectory(tmp_path / "run")
    config = replace(SMALL, source_language="deu", target_language="eng_Latn")
    preprocess(run, [train], [valid], config)
    manifest = run.read_manifest()
    read = [(entry["corpus"], entry["side"], entry["language"]) for entry in manifest["inputs"]]
    assert read == [
        ("train", "source", "de"),
        ("train", "target", "en-Latn"),
        ("valid", "source", "de"),
        ("valid", "target", "en-Latn"),
    ]
    for entry in manifest["inputs"]:
        content = Path(entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["lines"] == content.count(b"\n")
    written = tree(run.root)
    del written["manifest.json"], written["config.toml"]
    assert manifest["outputs"] == written
    assert manifest["vocabulary"]["digest"] == VocabularyPair.load(run.vocab).digest()


def test_the_vocabulary_sample_is_spread_over_the_corpus(tmp_path: Path, valid: PairPaths) -> None:
    early = [("ab cd ef", "AB CD EF")] * 300
    late = [(f"xyz{i} uvw", f"XYZ{i} UVW") for i in range(100)]
    train = put(tmp_path, "train", early + late)
    options = DataConfig(vocab_size=295, deduplicate=False, vocab_sample_pairs=40)
    preprocess(RunDirectory(tmp_path / "run"), [train], [valid], options)
    vocabulary = VocabularyPair.load(tmp_path / "run" / "vocab").source
    (ids,) = vocabulary.encode(["uvwxyz"])
    assert min(ids) >= 260  # its characters were seen, so none is spelled in bytes


@pytest.mark.parametrize("content", ["", "\n\n\n", "word\n" * 5])
def test_a_corpus_with_nothing_to_learn_from(
    tmp_path: Path, valid: PairPaths, content: str
) -> None:
    for path in (tmp_path / "s", tmp_path / "t"):
        path.write_text(content)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        preprocess(run, [PairPaths(tmp_path / "s", tmp_path / "t")], [valid], SMALL)
    expected = {"": "is empty", "\n\n\n": "none of the 3 pairs"}.get(content, "too small")
    assert expected in str(caught.value)
    assert tree(run.root) == {}


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, valid: PairPaths) -> None:
    train = put(tmp_path, "train", sentences(150, seed=1))
    run = RunDirectory(tmp_path / "run")
    preprocess(run, [train], [valid], SMALL)
    before = tree(run.root)
    with pytest.raises(UserError, match="already preprocessed"):
        preprocess(run, [train], [valid], SMALL)
    smaller = DataConfig(vocab_size=320)
    (run.checkpoints / "00000100").mkdir(parents=True)
    with pytest.raises(UserError, match="holds checkpoints"):
        preprocess(run, [train], [valid], smaller, overwrite=True)
    assert tree(run.root) == before
    (run.checkpoints / "00000100").rmdir()
    preprocess(run, [train], [valid], smaller, overwrite=True)
    assert VocabularyPair.load(run.vocab).source.size == 320
    other = RunDirectory(tmp_path / "other")
    preprocess(other, [train], [valid], smaller)
    assert tree(run.root) == tree(other.root)


def test_foreign_files_in_the_way_are_left_alone(tmp_path: Path, valid: PairPaths) -> None:
    data = tmp_path / "data"  # RUN is the directory that the user keeps their corpus in
    data.mkdir()
    train = put(data, "train", sentences(150, seed=1))
    before = tree(data)
    with pytest.raises(UserError, match="in the way"):
        preprocess(RunDirectory(tmp_path), [train], [valid], SMALL)
    assert tree(data) == before


def test_two_at_once_are_refused(tmp_path: Path, valid: PairPaths) -> None:
    run = RunDirectory(tmp_path / "run")
    train = put(tmp_path, "train", sentences(150, seed=1))
    with run.lock(), pytest.raises(UserError, match="in use"):
        preprocess(run, [train], [valid], SMALL)


INSTALLED = ("vocab/joint.model", "data/train/d", "data/valid/d", "config.toml", "manifest.json")


def fill(directory: Path, content: str) -> None:
    for name in INSTALLED:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def link_away(run: Path, disk: Path) -> None:
    """Let RUN/data and RUN/vocab lead to directories of another place."""
    for name in ("data", "vocab"):
        place = disk / name
        if (run / name).exists():
            shutil.copytree(run / name, place)
            shutil.rmtree(run / name)
        else:
            place.mkdir(parents=True)
        run.mkdir(exist_ok=True)
        (run / name).symlink_to(place)


def install(run: Path, calls_left: int | None) -> bool:
    """Install in a process that dies at the given call to the file system; say whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls_left
            if calls_left is not None:
                calls_left -= 1
                if calls_left < 0:
                    os._exit(9)
            return function(*arguments, **options)

        return call

    try:
        for name in ("rename", "rmdir", "unlink", "mkdir", "fsync"):
            setattr(os, name, dying(getattr(os, name)))
        with all_or_nothing(RunDirectory(run), overwrite=True) as out:
            fill(out, "new")
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("linked", [False, True])
def test_killed_at_any_moment_it_is_all_old_or_all_new(tmp_path: Path, linked: bool) -> None:
    for calls in range(200):
        run = tmp_path / str(calls)
        fill(run, "old")
        if linked:
            link_away(run, tmp_path / f"disk-{calls}")
        killed = install(run, calls)
        with pytest.raises(UserError) as caught:
            RunDirectory(run).read_manifest()
        if "was cut off" not in str(caught.value):  # it counts as preprocessed
            assert "is damaged" in str(caught.value), "neither old nor new are JSON"
            assert len({(run / name).read_text() for name in INSTALLED}) == 1
        assert not install(run, None)  # the next one cleans up and goes on
        assert {path.name for path in run.iterdir()} == {n.split("/")[0] for n in INSTALLED}
        assert {(run / name).read_text() for name in INSTALLED} == {"new"}
        for name in ("data", "vocab"):
            assert (run / name).is_symlink() == linked
            assert not list((run / name).glob(".*"))
        if not killed:
            break
    assert 20 < calls < 199


def test_what_was_decided_is_finished_even_where_the_next_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    fill(run / ".preprocess.ready", "new")  # killed right after the decision
    with pytest.raises(UserError, match="run `nmtasync preprocess` again"):
        RunDirectory(run).read_manifest()
    with (
        pytest.raises(UserError, match="already preprocessed"),
        all_or_nothing(RunDirectory(run), overwrite=False),
    ):
        pass
    assert {(run / name).read_text() for name in INSTALLED} == {"new"}


@pytest.mark.parametrize("lost", ["disk", "link"])
def test_what_was_decided_waits_for_its_disk(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is not mounted when the next one would finish, or the link leads elsewhere."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    link_away(run, disk)
    with (
        monkeypatch.context() as patched,
        pytest.raises(TypeError),  # in place of a kill
        all_or_nothing(RunDirectory(run), overwrite=True) as out,
    ):
        patched.setattr("nmtasync.preprocessing.all_or_nothing._install", None)
        fill(out, "new")
    assert (run / ".preprocess.ready").exists()
    away = tmp_path / "away"
    disk.rename(away)
    for name in ("data", "vocab"):
        (disk / name).mkdir(parents=True)
    with (
        pytest.raises(UserError, match="mount its disk"),
        all_or_nothing(RunDirectory(run), overwrite=True),
    ):
        pass
    if lost == "disk":
        shutil.rmtree(disk)
        away.rename(disk)
    else:
        for name in ("data", "vocab"):
            (run / name).unlink()
            (run / name).symlink_to(away / name)
    assert not install(run, None)
    assert {(run / name).read_text() for name in INSTALLED} == {"new"}


def test_a_link_that_took_a_directory_s_place_is_refused_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    fill(run / ".preprocess.ready", "new")
    link_away(run, tmp_path / "disk")
    refused = pytest.raises(UserError, match="remove the link")
    with refused, all_or_nothing(RunDirectory(run), overwrite=True):
        pass
    (run / "vocab").unlink()
    (run / "data").unlink()
    assert not install(run, None)
    assert {(run / name).read_text() for name in INSTALLED} == {"new"}


@pytest.mark.processes
def test_stopped_in_the_middle_it_leaves_nothing_that_counts(
    tmp_path: Path, valid: PairPaths
) -> None:
    train = put(tmp_path, "train", sentences(150, seed=1))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["preprocess", tmp_path / "run", "--vocab-size", "330"]
    arguments += ["--train", train.source, train.target, "--valid", pipe, valid.target]
    process = subprocess.Popen([sys.executable, "-m", "cli", *map(str, arguments)], cwd=REPOSITORY)
    with pipe.open("w"):  # waits until the pipe is read, after the training corpus
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    run = RunDirectory(tmp_path / "run")
    assert list(run.root.glob(".preprocess*"))
    assert not run.manifest.exists()
    preprocess(run, [train], [valid], SMALL)
    assert json.loads(run.manifest.read_text())["train"]["num_read"] == 150
    assert not list(run.root.glob(".preprocess*"))


def test_a_borrowed_vocabulary_is_the_same_and_the_manifest_says_whose(
    tmp_path: Path, valid: PairPaths
) -> None:
    lender, run = RunDirectory(tmp_path / "lender"), RunDirectory(tmp_path / "run")
    options = DataConfig(vocab_size=310, joint_vocabulary=False, vocab_type="bpe")
    preprocess(lender, [put(tmp_path, "one", sentences(150, seed=1))], [valid], options)
    other = put(tmp_path, "two", sentences(150, seed=3))
    report = preprocess(run, [other], [valid], DataConfig(vocab_from=str(lender.root)))
    assert tree(run.vocab) == tree(lender.vocab)
    first, _ = next(zip(read_lines(other.source), read_lines(other.target), strict=True))
    (ids,) = VocabularyPair.load(lender.vocab).source.encode([first])
    shards = ParallelShards.open(run.data / "train")
    assert shards.source_tokens[: shards.source_offsets[1]].tolist() == ids
    manifest = json.loads(run.manifest.read_text("utf-8"))
    assert manifest["vocabulary"]["from"] == str(lender.root)
    assert manifest["vocabulary"]["digest"] == report.vocabularies.digest()
    learned = {"data.vocab_size": 310, "data.joint_vocabulary": False, "data.vocab_type": "bpe"}
    assert learned.items() <= read_toml(run.config).items(), "what later stages rely on"


def test_what_contradicts_a_borrowed_vocabulary_is_refused(
    tmp_path: Path, valid: PairPaths
) -> None:
    lender, run = RunDirectory(tmp_path / "lender"), RunDirectory(tmp_path / "run")
    train = put(tmp_path, "train", sentences(150, seed=1))
    preprocess(lender, [train], [valid], SMALL)

    def refusal(**options: Any) -> str:
        with pytest.raises(UserError) as caught:
            preprocess(run, [train], [valid], DataConfig(**options))
        assert not run.root.exists(), "RUN is not made"
        return str(caught.value)

    message = refusal(vocab_from=str(lender.root), vocab_size=400)
    assert message.startswith("data.vocab_size: is 400") and "learned with 330" in message
    assert "is no preprocessed run" in refusal(vocab_from=str(tmp_path / "none"))
    (lender.vocab / "joint.model").write_bytes(b"")
    assert "joint.model" in refusal(vocab_from=str(lender.root))
    options = DataConfig(vocab_size=320)
    preprocess(RunDirectory(tmp_path / "other"), [train], [valid], options)
    other = (tmp_path / "other" / "vocab" / "joint.model").read_bytes()
    (lender.vocab / "joint.model").write_bytes(other)
    assert "has been changed" in refusal(vocab_from=str(lender.root))


def test_what_a_target_without_spaces_needs_is_told_and_goes_along(tmp_path: Path) -> None:
    characters = "我喜欢在公园里散步因为天气很好他昨天买了一本新书"
    rng = random.Random(4)

    def pairs(number: int) -> Pairs:
        return [
            (source, "".join(rng.choices(characters, k=16)) + "，真好！")
            for source, _ in sentences(number, seed=number)
        ]

    train, valid = put(tmp_path, "zh", pairs(150)), put(tmp_path, "zh-valid", pairs(20))
    careless = preprocess(RunDirectory(tmp_path / "a"), [train], [valid], SMALL)
    lost, language = careless.notes
    assert lost.startswith("100.0% of the validation references") and "！ ，" in lost
    assert "must know its language: add --target-language zh" in language
    wrong = replace(SMALL, target_language="jp")
    _, language_of_nobody = preprocess(RunDirectory(tmp_path / "d"), [train], [valid], wrong).notes
    assert "In 'jp'" in language_of_nobody and "--target-language zh" in language_of_nobody
    lender, run = RunDirectory(tmp_path / "b"), RunDirectory(tmp_path / "c")
    options = {"normalization": "identity", "target_language": "zh"}
    careful = preprocess(lender, [train], [valid], replace(SMALL, **options))
    assert careful.notes == []
    borrowed = preprocess(run, [train], [valid], DataConfig(vocab_from=str(lender.root)))
    assert borrowed.notes == [language], "the direction may be another one"
    assert read_toml(run.config)["data.normalization"] == "identity"
