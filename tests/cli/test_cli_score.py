"""`nmtasync score`, as a user runs it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from nmtasync.evaluation import score
from tests.support.command_line import CommandLine, one_line

SOURCES = ["eins zwei", "", "drei", "null null neun acht", "vier", "fünf sechs"]
TARGETS = ["two one", "nine", "three", "eight nine zero zero", "", "five five"]
NASTY = [
    ("", ""),
    ("eins", " \t"),
    (" ".join(["eins"] * 5000), "one"),
    ("eins", " ".join(["one"] * 5000)),
    ("a\x01\x02\x1b[31mb\x7f", "c\x0b\x1cd\u2028e"),
    ("日本語 Привет 🙂", "שלום ﷽"),
    ("eins", "one"),
]


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "source", SOURCES), write(tmp_path / "target", TARGETS)


def objects(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.split("\n")[:-1]]


def numbers(stdout: str) -> list[float]:
    return [float(line) for line in stdout.split("\n")[:-1]]


def test_each_line_has_its_score(
    nmtasync: CommandLine, trained: Path, pair: tuple[Path, Path]
) -> None:
    summed = nmtasync("score", trained, *pair)
    normalized = nmtasync("score", trained, *pair, "--normalize")
    found = objects(nmtasync("score", trained, *pair, "--json", "--word-scores").stdout)
    assert [each["line"] for each in found] == list(range(6))
    assert [i for i, line in enumerate(summed.stdout.split("\n")) if line == "nan"] == [1, 4]
    assert [each["problem"] for each in found if each["problem"]] == [
        "empty source",
        "empty target",
    ]
    lines = zip(numbers(summed.stdout), numbers(normalized.stdout), found, strict=True)
    for total, mean, each in lines:
        if each["problem"]:
            assert (each["score"], each["normalized"], each["pieces"]) == (None, None, [])
            continue
        assert total == pytest.approx(sum(each["piece_scores"]), abs=1e-5)
        assert mean == pytest.approx(total / len(each["pieces"]), abs=1e-5)
        assert each["pieces"][-1] == "</s>" and max(each["piece_scores"]) < 0
    assert summed.stderr == (
        "nmtasync: warning: line 2 and after: 2 pairs have no score: 1 with empty source, "
        "1 with empty target\n"
    )


def test_scores_depend_on_nothing_but_the_pair(
    nmtasync: CommandLine,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor on chunks, in which pairs are read: the memory for them is bounded."""
    rng = random.Random(1)
    sides = [
        [" ".join(rng.choices(words.split(), k=rng.randint(1, 7))) for _ in range(50)]
        for words in ("eins zwei drei vier", "one two three four")
    ]
    source, target = write(tmp_path / "s", sides[0]), write(tmp_path / "t", sides[1])
    expected = numbers(nmtasync("score", trained, source, target).stdout)
    assert len({*expected}) > 40
    for options in (["--batch-sentences=1"], ["--batch-sentences=7"], ["--threads=2"]):
        ours = numbers(nmtasync("score", trained, source, target, *options).stdout)
        assert ours == pytest.approx(expected, abs=1e-5)
    turned = write(tmp_path / "s2", sides[0][::-1]), write(tmp_path / "t2", sides[1][::-1])
    ours = numbers(nmtasync("score", trained, *turned).stdout)
    assert ours == pytest.approx(expected[::-1], abs=1e-5)
    sizes = []
    in_chunks = score.in_chunks

    def noted(pairs):
        for chunk in in_chunks(pairs):
            sizes.append(len(chunk))
            yield chunk

    monkeypatch.setattr(score, "in_chunks", noted)
    for name, value in (("CHUNK_PAIRS", 7), ("CHUNK_CHARACTERS", 100)):
        monkeypatch.setattr(score, name, value)
        sizes.clear()
        ours = numbers(nmtasync("score", trained, source, target).stdout)
        assert ours == pytest.approx(expected, abs=1e-5)
        assert max(sizes) <= 7 and sum(sizes) == 50


@pytest.mark.parametrize("side", [0, 1])
def test_one_side_may_be_standard_input_and_gzipped(
    side: int, nmtasync_process: CommandLine, trained: Path, pair: tuple[Path, Path]
) -> None:
    expected = nmtasync_process("score", trained, *pair).stdout
    sides: list[object] = [*pair]
    for content in (pair[side].read_bytes(), gzip.compress(pair[side].read_bytes())):
        sides[side] = "-"
        assert nmtasync_process("score", trained, *sides, stdin=content).stdout == expected


def test_nasty_pairs_keep_their_places(
    nmtasync: CommandLine, trained: Path, tmp_path: Path
) -> None:
    sides = [
        write(tmp_path / name, [*side])
        for name, side in zip("st", zip(*NASTY, strict=True), strict=True)
    ]
    result = nmtasync("score", trained, *sides, "--json")
    assert result.returncode == 0, result.stderr
    found = objects(result.stdout)
    problems = ["empty source", "empty target", "long source", "long target", None, None, None]
    assert [each["problem"] for each in found] == problems
    assert all((each["score"] is None) == bool(each["problem"]) for each in found)
    assert "4 pairs have no score" in one_warning(result.stderr)
    plain = nmtasync("score", trained, *sides).stdout.split("\n")[:-1]
    assert [line == "nan" for line in plain] == [bool(problem) for problem in problems]


def one_warning(stderr: str) -> str:
    (line,) = (line for line in stderr.splitlines() if "warning" in line)
    return line


def test_what_precedes_an_error_is_scored(
    nmtasync: CommandLine, trained: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = nmtasync("score", trained, *pair).stdout.split("\n")
    short = write(tmp_path / "short", TARGETS[:3])
    result = nmtasync("score", trained, pair[0], short)
    assert result.returncode == 2
    assert "source:4: this line has no partner" in one_line(result.stderr)
    scores = [float(line) for line in result.stdout.split("\n")[:-1]]
    assert scores == pytest.approx([float(line) for line in expected[:3]], abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-"], "standard input: can't be both sides"),
        (["SOURCE", "MISSING"], "MISSING: there is no such file"),
        (["SOURCE", "TARGET", "--word-scores"], "--word-scores needs --json"),
        (["SOURCE", "TARGET", "--beam-size", "3"], "No such option"),
        (["SOURCE", "TARGET", "--checkpoint", "7"], "no checkpoint 7; there are 15, 30"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str],
    message: str,
    nmtasync: CommandLine,
    trained: Path,
    pair: tuple[Path, Path],
) -> None:
    places = {"SOURCE": pair[0], "TARGET": pair[1], "MISSING": pair[0].with_name("MISSING")}
    result = nmtasync("score", trained, *(places.get(a, a) for a in arguments))
    assert result.returncode == 2 and result.stdout == ""
    assert message in one_line(result.stderr)
