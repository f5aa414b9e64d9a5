"""What `nmtasync evaluate` finds out beside scores, and that its scores are those of training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nmtasync.errors import NmtasyncError
from nmtasync.evaluation import comet
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line
from tests.support.runs import events, train_toy


@pytest.fixture
def trained(toy_run: RunDirectory) -> RunDirectory:
    validate = {"training__validate_bleu": True, "training__validate_every": 20}
    train_toy(toy_run, training__max_updates=40, **validate)
    return toy_run


@pytest.fixture
def named(toy_corpus: Path) -> list[object]:
    return ["--test", "toy", toy_corpus / "valid.src", toy_corpus / "valid.tgt"]


def test_validation_and_evaluation_give_the_same_number(
    toy_run: RunDirectory, named: list[object], nmtasync: CommandLine
) -> None:
    """To the last digit: what was scored in training is what was saved."""
    validate = {"training__validate_bleu": True, "training__validate_every": 100}
    train_toy(toy_run, training__max_updates=300, schedule__learning_rate=3e-3, **validate)

    def evaluated(updates: int, beam_size: int) -> float:
        options = ["--checkpoint", updates, "--beam-size", beam_size, "--json"]
        result = nmtasync("evaluate", toy_run.root, *named, *options)
        assert result.returncode == 0, result.stderr
        score: float = json.loads(result.stdout)[0]["bleu"]["score"]
        return score

    lines = events(toy_run, "valid")
    assert len(lines) == 3 and lines[-1]["bleu"] > 1
    assert [evaluated(line["updates"], 1) for line in lines] == [line["bleu"] for line in lines]
    assert evaluated(lines[-1]["updates"], 2) != lines[-1]["bleu"], "it is another search"


def test_a_model_is_compared_with_a_run_and_a_file(
    trained: RunDirectory,
    named: list[object],
    toy_corpus: Path,
    nmtasync: CommandLine,
    tmp_path: Path,
) -> None:
    other = RunDirectory(Path(shutil.copytree(trained.root, tmp_path / "other")))
    first = [*named, "--checkpoint", 20, "--beam-size", 1]
    assert nmtasync("evaluate", other.root, *first).returncode == 0
    perfect = tmp_path / "perfect|*.txt"
    shutil.copy(toy_corpus / "valid.tgt", perfect)
    against = ["--against", other.root, "--against", perfect, "--checkpoint", 40]
    details = ["--by-length", "2,4", "--examples", 1, "--examples-by", "bleu"]
    more = ["--reference", "toy", toy_corpus / "valid.src", "--beam-size", 1]
    command = ["evaluate", trained.root, *named, *against, *details, *more]

    result = nmtasync(*command, "--json")
    assert result.returncode == 0, result.stderr
    (written,) = json.loads(result.stdout)
    assert written == json.loads((trained.evaluation / "toy.json").read_text("utf-8"))
    own, rival, best = written["significance"]["systems"]
    assert [own["name"], rival["name"], best["name"]] == ["run", "other", perfect.name]
    assert own["bleu"]["score"] == written["bleu"]["score"]
    assert best["bleu"]["score"] == pytest.approx(100) and best["bleu"]["p_value"] < 0.01
    assert [file["path"] for file in written["more_references"]] == [str(toy_corpus / "valid.src")]
    assert "nrefs:2" in written["bleu"]["signature"]

    tables = nmtasync(*command, "--markdown", "--significance", "randomization")
    rows = [line for line in tables.stdout.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert len({len(row) for row in cells if row[0].strip() in ("run", "other")}) == 1
    assert any(row[0].strip() == r"perfect\|\*.txt" for row in cells)
    assert "approximate randomization against the first" in tables.stdout

    text = nmtasync(*command).stdout
    assert text.startswith("toy  BLEU ") and "toy: paired bootstrap against the first" in text
    assert "toy: by length of the source" in text and "toy: worst sentences by bleu" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--significance", "bootstrap"], "--significance: has no effect without --against"),
        (["--examples-by", "bleu"], "--examples-by: has no effect without --examples"),
        (["--comet-model", "x"], "--comet-model: has no effect without --metrics comet"),
        (["--by-length", "4,2"], "--by-length: must be whole numbers that rise"),
        (["--reference", "news", "SRC"], "--reference news: names no test set"),
        (["--reference", "toy", "MISSING"], "MISSING: there is no such file"),
        (["--against", "MISSING"], "MISSING: there is no such file"),
        (["--against", "RUN"], "is the run that is evaluated"),
        (["--test-set", "wmt16"], "--language-pair: is missing beside the other"),
        (["--language-pair", "ro-en"], "--test-set: is missing beside the other"),
        (["--test-set", "wmt61", "--language-pair", "ro-en"], "sacrebleu knows no such test set"),
        (["--json", "--markdown"], "--markdown: has no effect beside --json"),
    ],
)
def test_a_mistake_is_told_before_anything_is_translated(
    arguments: list[str],
    words: str,
    toy_run: RunDirectory,
    toy_corpus: Path,
    named: list[object],
    nmtasync: CommandLine,
) -> None:
    places = {"RUN": str(toy_run.root), "SRC": str(toy_corpus / "valid.src")}
    given = [places.get(word, word) for word in arguments]
    result = nmtasync("evaluate", toy_run.root, *named, *given)  # it is not trained
    assert (result.returncode, result.stdout) == (2, "")
    assert words in one_line(result.stderr)


def test_what_comet_fails_at_does_not_cost_the_other_scores(
    trained: RunDirectory,
    named: list[object],
    nmtasync: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*texts: object) -> comet.Score:
        raise NmtasyncError("has failed", where="COMET")

    monkeypatch.setattr(comet, "refuse_missing_comet", lambda: None)
    monkeypatch.setattr(comet, "score_by_comet", fail)
    command = ["evaluate", trained.root, *named, "--beam-size", 1, "--metrics", "comet"]
    result = nmtasync(*command)
    assert result.returncode == 1 and "COMET: has failed" in one_line(result.stderr)
    assert "BLEU " in result.stdout and (trained.evaluation / "toy.json").exists()
    monkeypatch.setattr(comet, "score_by_comet", lambda *t: {"score": 0.8125, "signature": t[3]})
    assert "COMET 0.8125" in nmtasync(*command).stdout
    written = json.loads((trained.evaluation / "toy.json").read_text("utf-8"))
    assert written["comet"] == {"score": 0.8125, "signature": comet.DEFAULT_MODEL}
