"""`nmtasync evaluate` and `nmtasync translate`, as a user runs them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nmtasync.config.schema import DecodingConfig
from nmtasync.evaluation.metrics import score
from tests.support.command_line import CommandLine
from tests.support.repository import REPOSITORY

LINES = ["eins zwei", "", "drei", "  ", "null null neun acht", "vier"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    source, reference = tmp_path / "test.src", tmp_path / "test.ref.gz"
    source.write_text("".join(line + "\n" for line in LINES), "utf-8")
    references = ["two one", "", "three", "five", "eight nine zero zero", "four"]
    reference.write_bytes(gzip.compress("".join(r + "\n" for r in references).encode("utf-8")))
    return source, reference


def test_evaluate_writes_what_it_prints(
    nmtasync: CommandLine, trained: Path, files: tuple[Path, Path]
) -> None:
    result = nmtasync("evaluate", trained, "--test", "digits", *files, "--beam-size", 2)
    assert result.returncode == 0, result.stderr
    written = json.loads((trained / "evaluation" / "digits.json").read_text("utf-8"))
    hypotheses = (trained / "evaluation" / "digits.hyp").read_text("utf-8").split("\n")[:-1]
    assert [i for i, line in enumerate(hypotheses) if not line] == [1, 3]
    references = gzip.decompress(files[1].read_bytes()).decode().split("\n")[:-1]
    for name, entry in score(hypotheses, references).items():
        assert written[name] == entry
    assert written["decoding"]["beam_size"] == 2
    assert written["checkpoint"] in (15, 30)
    assert written["averaged_checkpoints"] == [written["checkpoint"]]
    assert (written["source_language"], written["target_language"]) == ("de", None)
    assert written["sentences"] == len(LINES)
    for side, path in zip(("source", "reference"), files, strict=True):
        assert written[side]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"BLEU {written['bleu']['score']:.2f}" in result.stdout
    assert written["bleu"]["signature"] in result.stdout


def test_evaluate_prints_json_of_several_sets_and_a_chosen_checkpoint(
    nmtasync: CommandLine, trained: Path, files: tuple[Path, Path]
) -> None:
    result = nmtasync(
        "evaluate",
        trained,
        *("--test", "first", *files, "--test", "second", *files),
        *("--checkpoint", 15, "--json"),
    )
    assert result.returncode == 0, result.stderr
    entries = json.loads(result.stdout)
    assert [entry["name"] for entry in entries] == ["first", "second"]
    assert {entry["checkpoint"] for entry in entries} == {15}
    assert entries[0]["bleu"] == entries[1]["bleu"]
    written = json.loads((trained / "evaluation" / "second.json").read_text("utf-8"))
    assert written == entries[1]
    assert "tok:13a" in written["bleu"]["signature"]


def test_evaluate_knows_languages_by_any_usual_code(
    nmtasync: CommandLine, trained: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "zh").write_text("我喜欢在公园里散步,因为天气很好。\n" * len(LINES), "utf-8")
    arguments = ["evaluate", trained, "--test", "zh", files[0], tmp_path / "zh"]
    expected = {"zh": "zh", "zho_Hans": "zh-Hans", "zh_TW": "zh-TW", "yue_Hant": "yue-Hant"}
    for code, tag in expected.items():
        result = nmtasync(*arguments, "--target-language", code)
        assert "tok:zh" in result.stdout and "spaces" not in result.stderr
        written = json.loads((trained / "evaluation" / "zh.json").read_text("utf-8"))
        assert written["target_language"] == tag
    for options, words in (
        ((), "BLEU must know its language: add --target-language zh"),
        (("--target-language", "cn"), "In 'cn', BLEU counts what stands between spaces"),
    ):
        result = nmtasync(*arguments, *options)
        assert result.returncode == 0 and "tok:13a" in result.stdout
        assert f"warning: {tmp_path / 'zh'}: has hardly any spaces. {words}" in result.stderr


def test_translate_gives_what_evaluate_gives(
    nmtasync: CommandLine, trained: Path, files: tuple[Path, Path]
) -> None:
    """Also with Windows line ends, an order mark, and no line feed at the end."""
    assert nmtasync("evaluate", trained, "--test", "digits", *files).returncode == 0
    expected = (trained / "evaluation" / "digits.hyp").read_text("utf-8")
    text = "\n".join(LINES)
    for stdin in (text, text + "\n", "\ufeff" + text.replace("\n", "\r\n")):
        result = nmtasync("translate", trained, stdin=stdin)
        assert result.returncode == 0, result.stderr
        assert result.stdout == expected


def test_translate_keeps_the_count_of_lines(nmtasync: CommandLine, trained: Path) -> None:
    """Only a line feed ends a line, and more than a chunk of lines keeps its order."""
    odd = "eins\u2028zwei\u0085drei\x0bvier\x0cfünf\x1csechs\rsieben"
    block = ["eins", odd, "", "zwei drei vier"]
    result = nmtasync("translate", trained, "--beam-size", 1, stdin="\n".join(block * 500) + "\n")
    lines = result.stdout.split("\n")
    assert len(lines) == 2001
    assert lines[:-1] == lines[:4] * 500
    assert nmtasync("translate", trained, stdin="").stdout == ""
    assert nmtasync("translate", trained, stdin="\n\n").stdout == "\n\n"


@pytest.mark.parametrize("chunk_bytes", [1 << 16, 7])
def test_n_best_lists_number_the_lines(
    chunk_bytes: int, nmtasync: CommandLine, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the lines come in several pieces."""
    best = nmtasync("translate", trained, stdin="eins zwei\n\ndrei\n").stdout.split("\n")
    monkeypatch.setattr("cli.translate._READ_BYTES", chunk_bytes)
    result = nmtasync("translate", trained, "--n-best", 3, stdin="eins zwei\n\ndrei\n")
    rows = [line.split(" ||| ") for line in result.stdout.split("\n")[:-1]]
    assert [row[0] for row in rows] == ["0"] * 3 + ["1"] + ["2"] * 3
    assert [rows[0][1], rows[3][1], rows[4][1]] == best[:3]
    scores = [float(row[2]) for row in rows]
    assert scores[:3] == sorted(scores[:3], reverse=True)


@pytest.mark.processes
def test_a_typed_line_is_answered_before_the_next(trained: Path) -> None:
    command = [sys.executable, "-m", "cli", "translate", str(trained)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=-1, stdout=-1, env=environment, bufsize=0
    ) as process:
        assert process.stdin and process.stdout
        for _ in range(2):
            process.stdin.write(b"eins zwei\n")
            assert process.stdout.readline().endswith(b"\n")  # would wait for ever
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.processes
def test_a_reader_that_leaves_is_no_error(trained: Path) -> None:
    command = f"yes 'eins zwei' | head -30 | {sys.executable} -m cli translate {trained} | true"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, env=environment, capture_output=True, check=False
    )
    assert b"rror" not in result.stderr and b"Traceback" not in result.stderr


def test_invalid_text_is_refused_after_what_precedes_it(
    nmtasync: CommandLine, trained: Path
) -> None:
    result = nmtasync("translate", trained, stdin=b"eins\nzwei\n\xff\xfe\ndrei\n")
    assert result.returncode == 2
    assert result.stdout.count("\n") == 2
    assert "stdin:3: invalid UTF-8: byte 0xff at byte 1" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "RUN", "--n-best", "4", "--beam-size", "3"], "add --beam-size 4"),
        (["translate", "RUN", "--device", "cuda:99"], "there is no cuda:99"),
        (["translate", "RUN", "--device", "tpu"], "--device: 'tpu' is no device"),
        (["translate", "RUN", "--checkpoint", "worst"], "no checkpoint worst; there are 15, 30"),
        (["translate", "RUN", "--checkpoint", "7"], "no checkpoint 7; there are 15, 30"),
        (["translate", "RUN", "--set", "data.vocab_size=3000"], "--set data.vocab_size"),
        (["translate", "RUN", "--set", "decoding.beam=3"], "did you mean decoding.beam_size?"),
        (["translate", "RUN", "--beam-size", "0"], "decoding.beam_size must be between 1 and"),
        (["translate", "NOWHERE"], "has not been preprocessed"),
        (["translate", "UNTRAINED"], "holds no checkpoint"),
        (["evaluate", "RUN", "--test", "a/b", "SRC", "REF"], "must be a plain file name"),
        (["evaluate", "RUN", "--test", "..", "SRC", "REF"], "must be a plain file name"),
        (["evaluate", "RUN", "--test", "", "SRC", "REF"], "must be a plain file name"),
        (
            ["evaluate", "RUN", *["--test", "a", "SRC", "REF"] * 2],
            "--test a: is the name of two test sets",
        ),
        (["evaluate", "RUN", "--test", "a", "SRC", "MISSING"], "MISSING: there is no such file"),
        (["evaluate", "RUN", "--test", "a", "SRC", "SHORT"], "test.src:2: "),
        (["evaluate", "RUN", "--test", "a", "EMPTY", "EMPTY"], "holds no sentence"),
        (["evaluate", "RUN"], "--test: is missing; give --test NAME SRC REF, or --test-set"),
        (
            ["evaluate", "RUN", "--test", "a", "SRC", "REF", "--target-language", "chinese"],
            "must be a language code, as de, zh or zho_Hans, not 'chinese'",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str],
    message: str,
    nmtasync: CommandLine,
    trained: Path,
    _toy_run_template: Path,
    files: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    places = {
        "RUN": trained,
        "UNTRAINED": shutil.copytree(_toy_run_template, tmp_path / "untrained"),
        "NOWHERE": tmp_path / "nowhere",
        "SRC": files[0],
        "REF": files[1],
        "SHORT": tmp_path / "short",
        "EMPTY": tmp_path / "empty",
        "MISSING": tmp_path / "MISSING",
    }
    places["SHORT"].write_text("one\n")
    places["EMPTY"].write_text("")
    result = nmtasync(*(places.get(argument, argument) for argument in arguments), stdin="eins\n")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(trained.glob("evaluation/*"))


def test_decoding_of_the_run_s_config_is_overridden_by_flags(
    nmtasync: CommandLine, trained: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    config = trained / "config.toml"
    text = config.read_text("utf-8").replace("beam_size = 5", "beam_size = 3")
    config.write_text(text.replace("batch_sentences = 64", "batch_sentences = 2"), "utf-8")
    more = tmp_path / "more.toml"
    more.write_text("[decoding]\nlength_normalization = 0.5\nbeam_size = 4\n")
    arguments = ["evaluate", trained, "--test", "digits", *files, "--json"]
    options = ["--config", more, "--set", "decoding.max_length_ratio=1.5", "--beam-size", 6]
    decoding = json.loads(nmtasync(*arguments, *options).stdout)[0]["decoding"]
    changed = {"beam_size": 6, "length_normalization": 0.5, "max_length_ratio": 1.5}
    expected = dataclasses.replace(DecodingConfig(), **changed, batch_sentences=2)
    assert decoding == dataclasses.asdict(expected)
