"""`nmtasync preprocess` as users meet it: reports, bad input in one line, the set-up of RUN."""

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
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


def ids_of(run: Path, part: str = "train") -> list[tuple[list[int], list[int]]]:
    shards = ParallelShards.open(run / "data" / part)
    sides = (
        np.split(tokens, offsets[1:-1])
        for tokens, offsets in (
            (shards.source_tokens, shards.source_offsets),
            (shards.target_tokens, shards.target_offsets),
        )
    )
    return [(source.tolist(), target.tolist()) for source, target in zip(*sides, strict=True)]


def test_two_columns_from_standard_input_are_the_same_as_two_files(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    plain = nmtasync(*arguments(toy_corpus, tmp_path / "plain"), *SMALL, "--json")
    sides = [
        (toy_corpus / f"train.{side}").read_text("utf-8").splitlines() for side in ("src", "tgt")
    ]
    columns = "".join(f"{source}\t{target}\t0.5\n" for source, target in zip(*sides, strict=True))
    valid = [toy_corpus / "valid.src", toy_corpus / "valid.tgt"]
    command = [
        "preprocess",
        tmp_path / "columns",
        "--corpus",
        "web=-@1",
        "--valid",
        *valid,
        "--json",
    ]
    piped = nmtasync(*command, *SMALL, stdin=columns)
    assert (plain.returncode, piped.returncode) == (0, 0), piped.stderr
    assert ids_of(tmp_path / "plain") == ids_of(tmp_path / "columns")
    bad = nmtasync(*command[:1], tmp_path / "bad", *command[2:], *SMALL, stdin="a\tb\nno column\n")
    refuses(bad, "-:2: the line has no tab")


def test_corpora_have_names_and_weights(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run, both = tmp_path / "run", f"{toy_corpus / 'train.src'},{toy_corpus / 'train.tgt'}"
    valid = [toy_corpus / "valid.src", toy_corpus / "valid.tgt"]
    result = nmtasync(
        *("preprocess", run, "--corpus", f"small={both}@2.5", "--corpus", f"large={both}"),
        *("--valid", *valid, *SMALL),
    )
    assert result.returncode == 0, result.stderr
    parts = ParallelShards.open(run / "data" / "train").corpora
    assert [(part.name, part.pairs, part.weight) for part in parts] == [
        ("small", 300, 2.5),
        ("large", 300, 1.0),
    ]
    assert nmtasync("train", run, *TOY_FLAGS, "--max-epochs=1").returncode == 0


def test_what_is_protected_is_not_trained_on_and_rejects_say_why(
    tmp_path: Path, nmtasync: CommandLine
) -> None:
    lines = [f"satz {i} ist gut" for i in range(60)]
    test, rejects = tmp_path / "test.tgt", tmp_path / "rejects.tsv"
    put_pairs(tmp_path, "train", [(line, line.upper()) for line in [*lines, lines[0], ""]])
    put_pairs(tmp_path, "valid", [(lines[7], lines[7].upper()), ("neu", "NEU")])
    test.write_text(f" {lines[9].upper()} \n\nNOT THERE\n")
    result = nmtasync(
        *arguments(tmp_path, tmp_path / "run"),
        *("--protect", test, "--rejects", rejects, "--vocab-size", "290", "--json"),
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["train"]["num_kept"] == 58
    rows = [line.split("\t") for line in rejects.read_text("utf-8").splitlines()]
    source = tmp_path / "train.src"
    assert sorted(rows) == sorted(
        [
            ["empty side", f"{source}:62", "", ""],
            ["in validation or protected", f"{source}:8", lines[7], lines[7].upper()],
            ["in validation or protected", f"{source}:10", lines[9], lines[9].upper()],
            ["duplicate", f"{source}:61", lines[0], lines[0].upper()],
        ]
    )


def put_pairs(directory: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    for side, number in (("src", 0), ("tgt", 1)):
        text = "".join(pair[number] + "\n" for pair in pairs)
        (directory / f"{name}.{side}").write_text(text, "utf-8")


def test_rules_for_characters_are_part_of_the_vocabulary_of_their_side(
    tmp_path: Path, nmtasync: CommandLine
) -> None:
    pairs = [(f"{a}i {b}ară", f"{b}he {a}un") for a in "şșst" for b in "ţțts"] * 4
    put_pairs(tmp_path, "train", pairs)
    put_pairs(tmp_path, "valid", [("neu", "new")])
    rules = tmp_path / "rules.tsv"
    rules.write_text("# cedilla\n15F\t219\nU+0163\t021B # t\n")
    command = ["preprocess", tmp_path / "run", "--source-normalization-rules", rules]
    size = ["--vocab-size", "280", "--no-deduplicate"]
    result = nmtasync(*arguments(tmp_path, command[1]), *command[2:], *size)
    assert result.returncode == 0, result.stderr
    pair = VocabularyPair.load(tmp_path / "run" / "vocab")
    assert pair.joint and pair.source.pieces() == pair.target.pieces()
    assert pair.source.is_word_by_word
    first, second = pair.source.encode(["şi ţară s\u0327i", "și țară și"])
    assert first == second
    assert pair.target.encode(["ş"]) != pair.target.encode(["ș"])
    assert pair.source.encode(["ﬁ"]) == pair.source.encode(["fi"])  # the named rules hold, too
    rules.write_text("15F\t219\nzz\t1\n")
    refuses(
        nmtasync(*arguments(tmp_path, tmp_path / "b"), *command[2:], *size), "rules.tsv:2: 'zz'"
    )


def test_a_model_of_another_toolkit_is_taken_with_its_pieces(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    """With the control pieces where others have them, and user-defined symbols."""
    model, run = tmp_path / "foreign.model", tmp_path / "run"
    lines = (toy_corpus / "train.src").read_text("utf-8").splitlines()
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            vocab_size=30,
            hard_vocab_limit=False,
            user_defined_symbols=["<2en>"],
            minloglevel=2,
        )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    result = nmtasync(*arguments(toy_corpus, run), "--vocab-model", model, "--json")
    assert result.returncode == 0, result.stderr
    ours = VocabularyPair.load(run / "vocab").source
    text = f"<2en> {lines[0]}"
    pieces = ours.pieces()
    assert [pieces[i] for i in ours.encode([text])[0]] == theirs.encode(text, out_type=str)
    assert nmtasync("train", run, *TOY_FLAGS, "--max-updates=1").returncode == 0
    model.write_bytes(b"no model")
    refuses(nmtasync(*arguments(toy_corpus, tmp_path / "b"), "--vocab-model", model), str(model))


def test_user_symbols_are_never_cut(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    run = tmp_path / "run"
    result = nmtasync(*arguments(toy_corpus, run), *SMALL, "--user-symbols", "<2de> ⟦NUM⟧")
    assert result.returncode == 0, result.stderr
    vocabulary = VocabularyPair.load(run / "vocab").source
    pieces = vocabulary.pieces()
    for symbol in ("<2de>", "⟦NUM⟧"):
        assert symbol in [pieces[i] for i in vocabulary.encode([f"a{symbol}b"])[0]]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--corpus", "a=x"], "x: there is no such file"),
        (["--corpus", "nothing"], "is no corpus"),
        (["--protect", "missing"], "missing: there is no such file"),
        (["--set", "data.min_language=0.5", "--source-language", "xx"], "min_language"),
        (["--vocab-model", "a", "--vocab-from", "b"], "data.vocab_model"),
    ],
)
def test_inputs_that_can_not_be_used(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine, flags: list[str], expected: str
) -> None:
    run = tmp_path / "run"
    refuses(nmtasync(*arguments(toy_corpus, run), *SMALL, *flags), expected)
    assert {path.name for path in run.glob("*")} <= {".lock"}
