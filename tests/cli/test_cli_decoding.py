"""The ways of decoding that `nmtasync translate` has, as a user asks for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nmtasync.config.schema import DataConfig
from nmtasync.data.alignment import parse_alignment
from nmtasync.data.corpus import PairPaths
from nmtasync.decoding import precision
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.training.validation.validator import Validator
from tests.support.command_line import CommandLine, one_line
from tests.support.int8 import needs_int8
from tests.support.one_worker import toy_model
from tests.support.toy import toy_config

WORDS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
LINES = [
    " ".join(WORDS[(7 * i + j * j) % 10] for j in range(1 + 5 * i % 8)) if i % 6 else ""
    for i in range(26)
]
SHORT = "--set=decoding.max_length_ratio=0.1"
NASTY = [
    "",
    " \t ",
    " ".join(["eins"] * 5000),
    "a\x01\x02\x1b[31mb\x7f\x85\u2028c",
    "日本語のテキスト Привет мир 🙂 ﷽",
    "\u200b",
    "eins zwei",
]


def text(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def objects(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.split("\n")[:-1]]


@pytest.mark.parametrize(
    "how",
    [
        ["--beam-size=1"],
        ["--beam-size=4"],
        ["--sampling", "--seed=5"],
        ["--beam-size=4", "--precision=bf16"],
        pytest.param(["--beam-size=4", "--precision=int8"], marks=needs_int8),
    ],
)
def test_output_does_not_depend_on_batches_threads_or_neighbours(
    how: list[str], nmtasync: CommandLine, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = nmtasync("translate", trained, *how, stdin=text(LINES)).stdout
    assert len(set(expected.split("\n"))) > 9
    for other in (["--batch-sentences=1"], ["--batch-sentences=7"], ["--threads=2"]):
        assert nmtasync("translate", trained, *how, *other, stdin=text(LINES)).stdout == expected
    others = [line if i % 3 == 0 else "acht " * (i % 5) for i, line in enumerate(LINES)]
    changed = nmtasync("translate", trained, *how, stdin=text(others)).stdout
    assert changed.split("\n")[::3] == expected.split("\n")[::3]
    monkeypatch.setattr("cli.translate._READ_BYTES", 50)  # other chunks of lines
    assert nmtasync("translate", trained, *how, stdin=text(LINES)).stdout == expected


def test_a_search_does_not_depend_on_the_order(nmtasync: CommandLine, trained: Path) -> None:
    there = nmtasync("translate", trained, stdin=text(LINES)).stdout.split("\n")[:-1]
    back = nmtasync("translate", trained, stdin=text(LINES[::-1])).stdout.split("\n")[:-1]
    assert back == there[::-1]


def test_a_sample_depends_on_seed_and_line(nmtasync: CommandLine, trained: Path) -> None:
    lines = ["eins zwei drei"] * 4

    def sampled(*more: object, lines: list[str] = lines) -> list[str]:
        result = nmtasync("translate", trained, "--sampling", *more, stdin=text(lines))
        return result.stdout.split("\n")[:-1]

    assert sampled() == sampled("--seed", 1)
    assert len(set(sampled())) == 4, "each line has a place of its own"
    assert not set(sampled()) & set(sampled("--seed", 2))
    assert sampled(lines=["null", *lines[1:]])[1:] == sampled()[1:]
    several = [line.split(" ||| ") for line in sampled("--n-best", 8, lines=lines[:1])]
    scores = [float(row[2]) for row in several]
    assert scores == sorted(scores, reverse=True) and len({row[1] for row in several}) == 8
    assert sampled()[0] in {row[1] for row in several}


@pytest.mark.parametrize("how", [["--beam-size=40"], ["--sampling", "--temperature=0.4"]])
def test_n_best_texts_differ(how: list[str], nmtasync: CommandLine, trained: Path) -> None:
    arguments = ["translate", trained, "--json", *how]
    result = nmtasync(*arguments, "--n-best=40", "--word-scores", stdin=text(LINES[:10]))
    found = [each["translations"] for each in objects(result.stdout)]
    for translations in found:
        texts = [each["text"] for each in translations]
        assert len(set(texts)) == len(texts)
        scores = [each["normalized"] for each in translations]
        assert scores == sorted(scores, reverse=True)
    assert any(len(translations) > 10 for translations in found)
    if "--sampling" in how:
        assert any(1 < len(translations) < 40 for translations in found), "some come twice"
    else:
        best = objects(nmtasync(*arguments, stdin=text(LINES[:10])).stdout)
        assert [b["translations"][0]["text"] for b in best] == [t[0]["text"] for t in found]


def test_lengths_prefixes_and_repetition(
    nmtasync: CommandLine, trained: Path, tmp_path: Path
) -> None:
    prefixes = tmp_path / "prefixes"
    begun = [["five six", "", "nine"][i % 3] for i in range(len(LINES))]
    prefixes.write_text(text(begun), "utf-8")
    plain = nmtasync("translate", trained, stdin=text(LINES)).stdout.split("\n")
    flags = ["--json", "--word-scores"]
    result = nmtasync("translate", trained, *flags, "--prefixes", prefixes, stdin=text(LINES))
    for line, prefix, free, found in zip(LINES, begun, plain, objects(result.stdout), strict=False):
        translation = found["translations"][0]
        assert translation["text"].startswith(prefix) or not line
        assert (
            translation["text"] == free if not prefix else free != translation["text"] or not line
        )

    options = ["--min-length=7", "--no-repeat-ngram-size=1", *flags]
    for found in objects(nmtasync("translate", trained, *options, stdin=text(LINES)).stdout):
        pieces = found["translations"][0]["pieces"]
        assert len(pieces) >= 8 or not LINES[found["line"]]
        assert len(set(pieces)) == len(pieces)


def test_piece_scores_are_those_of_score(
    nmtasync: CommandLine, trained: Path, tmp_path: Path
) -> None:
    gnmt = ["--length-penalty-type=gnmt", "--length-normalization=0.6"]
    options = ["--json", "--word-scores", "--ensemble", f"{trained}:15@0.5", *gnmt]
    result = nmtasync("translate", trained, *options, stdin=text(LINES))
    found = [each["translations"][0] for each in objects(result.stdout)]
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text(text(LINES), "utf-8")
    target.write_text(text([each["text"] for each in found]), "utf-8")
    scored = objects(nmtasync("score", trained, source, target, *options).stdout)
    same = 0
    for ours, theirs in zip(found, scored, strict=True):
        assert ours["score"] == pytest.approx(sum(ours["piece_scores"]), abs=1e-4)
        length = len(ours["pieces"])
        if ours["pieces"]:
            penalty = ((5 + length) / 6) ** 0.6
            assert ours["normalized"] == pytest.approx(ours["score"] / penalty, abs=1e-5)
        if ours["pieces"] == theirs["pieces"] != []:
            same += 1
            assert ours["piece_scores"] == pytest.approx(theirs["piece_scores"], abs=1e-5)
            assert ours["normalized"] == pytest.approx(theirs["normalized"], abs=1e-5)
    assert same > 5


def test_an_ensemble_of_a_run_with_itself_is_the_run(nmtasync: CommandLine, trained: Path) -> None:
    alone = nmtasync("translate", trained, "--n-best=3", stdin=text(LINES)).stdout
    twice = nmtasync("translate", trained, "--n-best=3", "--ensemble", trained, stdin=text(LINES))
    assert twice.stdout == alone
    other = f"{trained}:15"
    heavy = nmtasync("translate", trained, "--ensemble", f"{other}@1e9", stdin=text(LINES)).stdout
    there = nmtasync("translate", trained, "--checkpoint=15", stdin=text(LINES)).stdout
    assert heavy == there != nmtasync("translate", trained, stdin=text(LINES)).stdout


def test_the_precision_that_auto_came_to_is_said_and_written(
    nmtasync: CommandLine, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_possible", lambda device: ["bf16"])
    monkeypatch.setattr(precision, "MIN_SPEEDUP", 0.0)
    source = tmp_path / "source"
    source.write_text(text(LINES), "utf-8")
    auto = ["--precision=auto", "--beam-size=2"]
    result = nmtasync("evaluate", trained, "--test", "t", source, source, *auto, "--json")
    assert "nmtasync: precision bf16: it computes the output projection" in result.stderr
    (written,) = json.loads(result.stdout)
    assert written["decoding"]["precision"] == "bf16"
    asked = nmtasync("translate", trained, "--precision=bf16", "--beam-size=2", stdin=text(LINES))
    assert "precision" not in asked.stderr, "nothing was chosen"
    assert asked.stdout == (trained / "evaluation" / "t.hyp").read_text("utf-8")
    scores = {
        how: nmtasync("score", trained, source, source, f"--precision={how}").stdout
        for how in ("fp32", "bf16", "auto")
    }
    assert scores["auto"] == scores["bf16"] != scores["fp32"]


def test_evaluate_notes_ensemble_and_limits(
    nmtasync: CommandLine, trained: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_text(text(["eins " * 2000, "zwei", "drei " * 1500]), "utf-8")
    options = ["--ensemble", f"{trained}:15@3", "--min-length=5000", "--json", SHORT]
    result = nmtasync("evaluate", trained, "--test", "t", source, source, "--beam-size=1", *options)
    (written,) = json.loads(result.stdout)
    assert [(m["checkpoints"], m["weight"]) for m in written["ensemble"]] == [
        ([30], 0.25),
        ([15], 0.75),
    ]
    assert (written["cut_sources"], written["ended_by_length"]) == (2, 3)
    warnings = [line for line in result.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 4, "the first of each kind, and how many there were"
    assert f"{source}:1: has 2,000 pieces; only the first 1,000 are translated" in warnings[0]
    assert "2 lines were longer than can be translated" in warnings[2]
    assert "3 translations were ended by the greatest length" in warnings[3]


def test_alignments_are_read_by_preprocess(
    nmtasync: CommandLine, trained: Path, toy_corpus: Path, tmp_path: Path
) -> None:
    links, lines = tmp_path / "links", [line for line in LINES if line]
    options = ["--alignments", links, "--no-repeat-ngram-size=1"]
    result = nmtasync("translate", trained, *options, stdin=text(lines))
    translations = result.stdout.split("\n")[:-1]
    written = links.read_text("utf-8").split("\n")[:-1]
    for line, translation, row in zip(lines, translations, written, strict=True):
        parsed = parse_alignment(row, line, translation, "here")
        assert [target for _, target in sorted(parsed, key=lambda link: link[1])] == list(
            range(len(translation.split()))
        ), "each target word is linked once"
        assert parsed == sorted(parsed)
    for name, content in (("s", lines), ("t", translations)):
        (tmp_path / name).write_text(text(content), "utf-8")
    pair = tmp_path / "s", tmp_path / "t"
    valid = toy_corpus / "valid.src", toy_corpus / "valid.tgt"
    arguments = ["--train", *pair, "--alignments", links, "--valid", *valid]
    result = nmtasync("preprocess", tmp_path / "again", *arguments, "--vocab-from", trained)
    assert result.returncode == 0, result.stderr
    several = nmtasync("translate", trained, "--n-best=3", *options, stdin=text(LINES))
    assert links.read_text("utf-8").count("\n") == several.stdout.count("\n")


@pytest.mark.parametrize("how", [["--beam-size=2"], ["--sampling"]])
def test_nasty_lines_keep_their_places(
    how: list[str], nmtasync: CommandLine, trained: Path, tmp_path: Path
) -> None:
    prefixes = tmp_path / "prefixes"
    prefixes.write_text(text(["日本", "eins", "two", "\x01", " ".join(["two"] * 3000), "x", ""]))
    options = ["--prefixes", prefixes, "--alignments", tmp_path / "links", "--json"]
    options += ["--word-scores", SHORT]
    result = nmtasync("translate", trained, *how, *options, stdin=text(NASTY))
    assert result.returncode == 0, result.stderr
    found = objects(result.stdout)
    assert [each["line"] for each in found] == list(range(len(NASTY)))
    blank = [not each["translations"][0]["text"] for each in found]
    assert [i for i, is_blank in enumerate(blank) if is_blank] == [0, 1, 5]
    assert "stdin:3: has 5,000 pieces; only the first 1,000 are translated" in result.stderr
    assert "stdin:5: its prefix has 3,000 pieces; only the first 1,000 are taken" in result.stderr
    assert (tmp_path / "links").read_text("utf-8").count("\n") == len(NASTY)


@pytest.fixture
def other_vocabulary(trained: Path, toy_corpus: Path, tmp_path: Path) -> Path:
    run = RunDirectory(tmp_path / "other")
    train, valid = (
        PairPaths(toy_corpus / f"{part}.src", toy_corpus / f"{part}.tgt")
        for part in ("train", "valid")
    )
    options = DataConfig(vocab_size=44, byte_fallback=False, deduplicate=False)
    preprocess(run, [train], [valid], options)
    shutil.copytree(trained / "checkpoints", run.checkpoints)
    return run.root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ensemble", "OTHER"], "has other vocabularies than"),
        (["--ensemble", "RUN:7"], "no checkpoint 7; there are 15, 30"),
        (["--ensemble", "RUN@0"], "its weight is '0', but must be a number above 0"),
        (["--ensemble", "RUN:15@much"], "its weight is 'much', but must be a number above 0"),
        (["--ensemble", "NOWHERE"], "has not been preprocessed"),
        (["--temperature", "0.5"], "has no effect while decoding.sampling is false"),
        (["--sampling", "--top-p", "0"], "decoding.top_p must be more than 0"),
        (["--length-penalty-type", "wu"], "must be one of average, gnmt"),
        (["--word-scores"], "--word-scores needs --json"),
        (["--prefixes", "SHORT"], "has only 1 lines, standard input more"),
        (["--prefixes", "LONG"], "has more lines than standard input, which has 2"),
        (["--prefixes", "MISSING"], "MISSING: there is no such file"),
        (["--alignments", "NOWHERE/links"], "NOWHERE: there is no such directory"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str],
    message: str,
    nmtasync: CommandLine,
    trained: Path,
    other_vocabulary: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "SHORT").write_text("one\n")
    (tmp_path / "LONG").write_text("one\n\n\n")
    named = [
        a.replace("RUN", str(trained))
        .replace("OTHER", str(other_vocabulary))
        .replace("NOWHERE", f"{tmp_path}/NOWHERE")
        for a in arguments
    ]
    named = [str(tmp_path / a) if a in ("SHORT", "LONG", "MISSING") else a for a in named]
    result = nmtasync("translate", trained, *named, stdin="eins\nzwei\n")
    assert result.returncode == 2
    assert message in one_line(result.stderr)


def test_validation_ignores_sampling_and_the_like(toy_run: RunDirectory) -> None:
    strange = toy_config(decoding__sampling=True, decoding__min_length=9)
    plain = toy_config()
    lines = ["eins zwei", "drei"]
    first, second = (Validator(toy_run, toy_model(c), c, "cpu") for c in (strange, plain))
    assert first._translate(lines) == second._translate(lines)
