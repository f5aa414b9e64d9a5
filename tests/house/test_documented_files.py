"""docs/files.md is complete: every file of RUN, and every field of the files that it describes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmtasync.run_directory import RunDirectory
from nmtasync.training import divergence
from tests.support.command_line import CommandLine
from tests.support.repository import REPOSITORY
from tests.support.toy import TOY_MODEL

PAGE = (REPOSITORY / "docs/files.md").read_text("utf-8")

NOT_BROKEN_DOWN = {
    "config",
    "settings",
    "simulation",
    "measured",
    "noise_scale_by_worker",
    "decoding",
    "source",
    "reference",
}
"""Fields whose content other pages describe, or none."""

FLAGS = [f"--set={n}={str(v).lower() if isinstance(v, bool) else v}" for n, v in TOY_MODEL.items()]
SHORT = ["--max-updates=4", "--validate-every=2", "--set=training.log_every_seconds=0"]


def documented(*headings: str) -> set[str]:
    """The names in the first column of the tables right under these headings."""
    names: set[str] = set()
    for heading in headings:
        text = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
        assert text, f"no heading {heading}"
        cells = re.findall(r"^\| (.*?) \|", text[1], re.M)
        names.update(name for cell in cells for name in re.findall(r"`([^`]+)`", cell))
    return names


def documented_anywhere(heading: str) -> set[str]:
    """All names in the section under a heading."""
    text = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert text
    return set(re.findall(r"`([^`]+)`", text[1]))


def fields(content: dict[str, Any]) -> Iterator[str]:
    """The names of fields, inner ones as outer.inner, with N for keys that are numbers."""
    for key, value in content.items():
        name = "N" if key.isdecimal() else key
        if isinstance(value, dict) and value and key not in NOT_BROKEN_DOWN:
            yield from (f"{name}.{inner}" for inner in fields(value))
        else:
            yield name


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def found_by_event(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines(path):
        found.setdefault(line["event"], set()).update(fields(line))
    return found


def last_state(run: RunDirectory) -> dict[str, Any]:
    latest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    state: dict[str, Any] = json.loads((latest / "state.json").read_text("utf-8"))
    return state


@pytest.fixture
def simulated(toy_run: RunDirectory, nmtasync: CommandLine) -> RunDirectory:
    """Of three workers one dies and returns; a buffer gathers their pushes, scaled for fp16."""
    three = ["--driver=simulated", "--speeds=1,1,1", "--failures=1@1-2", "--precision=fp16"]
    result = nmtasync("train", toy_run.root, *FLAGS, *SHORT, *three, "--rule=buffer")
    assert result.returncode == 0, result.stderr
    return toy_run


@pytest.fixture
def complete(toy_run: RunDirectory, toy_corpus: Path, nmtasync: CommandLine) -> RunDirectory:
    """A run that every command has worked on."""
    test = ["--test", "toy", toy_corpus / "valid.src", toy_corpus / "valid.tgt"]
    for command in (
        ["train", toy_run.root, *FLAGS, *SHORT],
        ["profile", toy_run.root, "--batches=1"],
        ["evaluate", toy_run.root, *test, "--beam-size=1"],
        ["average", toy_run.root, "--last=2"],
    ):
        result = nmtasync(*command)
        assert result.returncode == 0, result.stderr
    return toy_run


def test_the_fields_of_metrics_and_of_a_simulation_s_state_are_documented(simulated):
    found = found_by_event(simulated.logs / "metrics.jsonl")
    assert set(found) == {"train", "valid", "checkpoint", "worker", "end"}
    for event, names in found.items():
        assert names == documented("Every line", event), event

    names, known = set(fields(last_state(simulated))), documented("state.json")
    assert names <= known, names - known
    assert known - names == {"rule", "rule.outer_seen"}, "of other rules"


def matches(path: str, pattern: str) -> bool:
    """Whether words in capitals stand for what a path has in their place."""
    pattern = re.escape(pattern)
    words = {"UPDATES": r"\d+", "SIDE": "(source|target)", "NAME": "[^/]+"}
    words["AVERAGE"] = "(?!latest|best)[A-Za-z][A-Za-z0-9_-]*"
    for word, meaning in words.items():
        pattern = pattern.replace(word, meaning)
    return re.fullmatch(re.sub(r"\bN\b", r"\\d+", pattern), path) is not None


@pytest.mark.processes
def test_the_files_of_a_run_and_their_fields_are_documented(complete):
    patterns = documented("Files of RUN")
    for path in filter(Path.is_file, complete.root.rglob("*")):
        name = path.relative_to(complete.root).as_posix()
        assert any(matches(name, pattern) for pattern in patterns), name

    for event, names in found_by_event(complete.logs / "exchanges.jsonl").items():
        known = documented(event)
        assert names <= known, event
        assert known - names <= {"idle_seconds", "rollbacks"}, "with overlap, and after rollbacks"
    assert set(fields(last_state(complete))) <= documented("state.json")
    shards = json.loads((complete.data / "train/shards.json").read_text("utf-8"))
    assert set(shards) <= {name.split(".")[0] for name in documented("shards.json")}
    validations = json.loads((complete.checkpoints / "validations.json").read_text("utf-8"))
    assert set(validations[0]) == documented("validations.json")
    for path, heading in (
        (complete.manifest, "manifest.json"),
        (complete.logs / "profile.json", "profile.json"),
        (complete.evaluation / "toy.json", "Scores of a test set"),
    ):
        content = json.loads(path.read_text("utf-8"))
        assert set(content) == documented(heading), heading


def test_the_fields_of_scores_that_are_asked_for_are_documented(
    toy_run: RunDirectory, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    assert nmtasync("train", toy_run.root, *FLAGS, *SHORT).returncode == 0
    source, target = toy_corpus / "valid.src", toy_corpus / "valid.tgt"
    details = ["--against", target, "--by-length=5", "--examples=1", "--reference", "toy", target]
    command = ["evaluate", toy_run.root, "--test", "toy", source, target, "--beam-size=1"]
    result = nmtasync(*command, *details)
    assert result.returncode == 0, result.stderr
    content = json.loads((toy_run.evaluation / "toy.json").read_text("utf-8"))
    asked_for = set(content) - documented("Scores of a test set")
    assert asked_for == documented("Scores that were asked for") & set(content)
    inner = (content["significance"], content["by_length"][0], content["examples"])
    names = {name for part in inner for name in part}
    names |= set(content["significance"]["systems"][0]["bleu"]) | set(
        content["examples"]["best"][0]
    )
    assert names <= documented_anywhere("Scores that were asked for")


def test_the_fields_of_a_bad_batch_are_documented(toy_run, nmtasync):
    absurd = ["--learning-rate=1e30", "--warmup-updates=1"]
    assert nmtasync("train", toy_run.root, *FLAGS, *absurd).returncode == 1
    path = next((toy_run.logs / "bad-batches").iterdir())
    name = path.relative_to(toy_run.root).as_posix()
    assert any(matches(name, pattern) for pattern in documented("Files of RUN")), name
    content = json.loads(path.read_text("utf-8"))
    inner = {f"sentences.{field}" for field in content["sentences"][0]}
    assert {*content, *inner} == documented("bad batches")


def test_the_fields_of_a_rollback_are_documented(toy_run, nmtasync, monkeypatch):
    assert nmtasync("train", toy_run.root, *FLAGS, *SHORT).returncode == 0
    monkeypatch.setattr(divergence, "PATIENCE_PUSHES", 0)
    goes_back = ["--max-updates=9", "--on-divergence=rollback"]
    assert nmtasync("train", toy_run.root, *FLAGS, *goes_back).returncode == 1
    metrics, exchanges = (
        found_by_event(toy_run.logs / f"{name}.jsonl") for name in ("metrics", "exchanges")
    )
    assert metrics["rollback"] == documented("Every line", "rollback")
    assert exchanges["run"] == documented("run")


def test_what_is_not_documented_is_noticed():
    patterns = documented("Files of RUN")
    for name in ("checkpoints/12/state.json", "checkpoints/last-2/state.json"):
        assert any(matches(name, pattern) for pattern in patterns), name
    for name in ("logs/news.txt", "checkpoints/latest/state.json", "data/test/source.tokens"):
        assert not any(matches(name, pattern) for pattern in patterns), name
    assert set(fields({"workers": {"0": {"batches": 1}}})) == {"workers.N.batches"}
