"""`nmtasync preprocess` as users meet it: reports, bad input in one line, the set-up of RUN."""

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmtasync.data.shards import ParallelShards
from tests.support.command_line import CommandLine, Ended
from tests.support.toy import TOY_FLAGS

TEST_DATA = os.environ.get("NMTASYNC_TEST_DATA")


def arguments(corpus: Path, run: Path) -> list[object]:
    train = [corpus / "train.src", corpus / "train.tgt"]
    valid = [corpus / "valid.src", corpus / "valid.tgt"]
    return ["preprocess", run, "--train", *train, "--valid", *valid]


SMALL = ["--vocab-size", "300", "--no-deduplicate", "--no-drop-protected"]


def test_the_report_for_people_and_for_programs(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run = tmp_path / "run"
    shown = nmtasync(*arguments(toy_corpus, run), *SMALL)
    assert (shown.returncode, shown.stderr) == (0, "")
    for words in ("training pairs read", "300 joint", f"Next: nmtasync train {run}"):
        assert words in shown.stdout
    again = nmtasync(*arguments(toy_corpus, run), "--vocab-size", "284", "--overwrite", "--json")
    report = json.loads(again.stdout)
    assert report["vocabulary"]["source_size"] == 284
    train = report["train"]
    dropped = {entry["reason"]: entry["num_pairs"] for entry in train["dropped"]}
    assert dropped.keys() == {"duplicate", "in validation or protected"}
    assert train["num_kept"] == 300 - sum(dropped.values())
    assert len(ParallelShards.open(run / "data" / "train")) == train["num_kept"]


def test_a_config_file_sets_what_flags_override(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    config = tmp_path / "all.toml"
    config.write_text("[data]\nvocab_size = 290\nmax_length = 7\n[model]\ndimension = 64\n")
    result = nmtasync(
        *arguments(toy_corpus, tmp_path / "run"),
        *(
            "--config",
            config,
            "--vocab-size",
            295,
            "--set",
            "data.deduplicate=false",
            *SMALL[3:],
            "--json",
        ),
    )
    report = json.loads(result.stdout)
    assert report["vocabulary"]["source_size"] == 295
    assert report["train"]["longest"] <= 7
    assert {dropped["reason"] for dropped in report["train"]["dropped"]} == {"too long"}


def test_an_unjoint_vocabulary_needs_no_other_option(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run = tmp_path / "run"
    result = nmtasync(
        *arguments(toy_corpus, run), "--no-joint-vocabulary", "--vocab-size", 280, "--json"
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (run / "vocab").iterdir()) == [
        "source.model",
        "target.model",
    ]


def test_languages_are_recorded_as_tags_whatever_they_were_written_as(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run = tmp_path / "run"
    config = tmp_path / "languages.toml"
    config.write_text('[data]\nsource_language = "zho_Hans"\n')
    options = [
        "--config",
        config,
        "--target-language",
        "ron",
        *SMALL,
        "--set",
        "data.min_script=none",
    ]
    assert nmtasync(*arguments(toy_corpus, run), *options).returncode == 0
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    tags = {"source_language": "zh-Hans", "target_language": "ro"}
    assert tags.items() <= manifest["options"].items()
    assert {entry["language"] for entry in manifest["inputs"]} == set(tags.values())
    dumped = nmtasync("train", run, "--dump-config", "--target-language", "pt_BR").stdout
    assert 'source_language = "zh-Hans"' in dumped and 'target_language = "pt-BR"' in dumped
    unclear = nmtasync("train", run, "--target-language", "german")
    assert unclear.returncode == 2
    assert "'german'" in unclear.stderr and "Traceback" not in unclear.stderr


@pytest.fixture(params=["the same disk", "another disk"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory that links shall lead to."""
    if request.param == "the same disk":
        (tmp_path / "disk").mkdir()
        yield tmp_path / "disk"
        return
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def test_directories_of_run_may_be_links(
    disk: Path, tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run = tmp_path / "run"
    (disk / "run").mkdir()
    run.symlink_to(disk / "run")
    names = ("data", "vocab", "checkpoints", "logs", "evaluation")
    for name in names:
        (disk / name).mkdir()
        (run / name).symlink_to(disk / name)
    (disk / "data" / "lost+found").mkdir()  # as where a disk is mounted
    assert nmtasync(*arguments(toy_corpus, run), *SMALL).returncode == 0
    other = ["--vocab-size", "280", "--no-joint-vocabulary", "--overwrite"]
    result = nmtasync(*arguments(toy_corpus, run), *other)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (disk / "data").iterdir()} == {"train", "valid", "lost+found"}
    models = {path.name for path in (disk / "vocab").iterdir()}
    assert models == {"source.model", "target.model"}, "those of before are gone"
    plain = tmp_path / "plain"
    assert nmtasync(*arguments(toy_corpus, plain), *other[:-1]).returncode == 0
    assert (plain / "manifest.json").read_bytes() == (run / "manifest.json").read_bytes()
    untied = "--set=model.tied_embeddings=none"
    assert nmtasync("train", run, *TOY_FLAGS, untied, "--max-updates=1").returncode == 0
    test = ["--test", "toy", toy_corpus / "valid.src", toy_corpus / "valid.tgt"]
    assert nmtasync("evaluate", run, *test).returncode == 0
    assert run.is_symlink() and all((run / name).is_symlink() for name in names)
    assert all(any((disk / name).iterdir()) for name in names)


def test_a_link_that_leads_nowhere_is_named(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run = tmp_path / "run"
    assert nmtasync(*arguments(toy_corpus, run), *SMALL).returncode == 0
    (run / "data").rename(tmp_path / "data")
    (run / "data").symlink_to(tmp_path / "disk")
    before = (run / "manifest.json").read_bytes()
    again = nmtasync(*arguments(toy_corpus, run), *SMALL, "--overwrite")
    refuses(again, f"data: is a link to {tmp_path / 'disk'}, where no directory is")
    (tmp_path / "data").rename(tmp_path / "disk")
    assert (run / "manifest.json").read_bytes() == before
    assert nmtasync(*arguments(toy_corpus, run), *SMALL, "--overwrite").returncode == 0


def spoil(corpus: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (corpus / name).unlink()
    else:
        (corpus / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train.src", None, "train.src: there is no such file"),
        ("train.tgt", b"one\ntwo\n", "train.src:3: this line has no partner"),
        ("train.tgt", b"ok\nb\xe4d\n", "train.tgt:2: invalid UTF-8"),
        ("valid.src", b"ok\n\xff\n", "valid.src:2: invalid UTF-8"),
        ("train.src", gzip.compress(b"a\n" * 99_999, mtime=0)[:-9], "cut off"),
        ("valid.tgt", b"", "valid.src:1: this line has no partner"),
    ],
)
def test_bad_files(
    tmp_path: Path,
    toy_corpus: Path,
    nmtasync: CommandLine,
    name: str,
    content: bytes | None,
    expected: str,
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in toy_corpus.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    spoil(corpus, name, content)
    refuses(nmtasync(*arguments(corpus, tmp_path / "run"), *SMALL), expected)
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert left <= {".lock"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--vocab-size", "9000"], "too small for a vocabulary of 9000 pieces"),
        (["--vocab-size", "20"], "too few"),
        (["--set", "model.dimension=64"], "no effect on preprocess"),
        (["--set", "data.vocab_sise=64"], "did you mean data.vocab_size?"),
        (["--set", "data.source_language=german"], "must be a language code, as de"),
        (["--set", "data.target_language='zh '; x"], "must be a language code"),
    ],
)
def test_bad_options(
    tmp_path: Path,
    toy_corpus: Path,
    nmtasync: CommandLine,
    options: list[str],
    expected: str,
) -> None:
    refuses(nmtasync(*arguments(toy_corpus, tmp_path / "run"), *options), expected)


def test_empty_corpus_and_run_that_is_a_file(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    (tmp_path / "empty").touch()
    pair = [tmp_path / "empty"] * 2
    refuses(nmtasync("preprocess", tmp_path / "run", "--train", *pair, "--valid", *pair), "empty")
    taken = arguments(toy_corpus, tmp_path / "empty")
    result = nmtasync(*taken)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def refuses(result: Ended, expected: str) -> None:
    """Expect exit code 2, nothing on standard output and one line that says why."""
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("nmtasync: error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(TEST_DATA is None, reason="NMTASYNC_TEST_DATA names no folder of corpora")
def test_multi30k(tmp_path: Path, nmtasync: CommandLine) -> None:
    corpus = Path(str(TEST_DATA)) / "multi30k"
    result = nmtasync(
        *("preprocess", tmp_path / "run", "--json"),
        *("--train", corpus / "train.de.gz", corpus / "train.en.gz"),
        *("--valid", corpus / "val.de.gz", corpus / "val.en.gz"),
    )
    report = json.loads(result.stdout)
    assert (report["train"]["num_read"], report["train"]["num_kept"]) == (29_000, 28_995)
    dropped = {entry["reason"]: entry["num_pairs"] for entry in report["train"]["dropped"]}
    assert dropped == {"duplicate": 3, "few letters": 2}  # two translations are "@@"
    assert report["valid"]["num_kept"] == 1014
    assert report["train"]["source_pieces"] < 1.5 * report["train"]["source_words"]
