"""`nmtasync doctor`: what is damaged is found, what is whole is not complained of."""

from __future__ import annotations

import json
import locale
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nmtasync.doctor import machine
from nmtasync.doctor.findings import Finding, ok
from nmtasync.errors import NmtasyncError
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine
from tests.support.runs import train_toy

Doctor = Callable[..., tuple[int, list[dict[str, str]]]]


@pytest.fixture(scope="module")
def _trained_template(
    tmp_path_factory: pytest.TempPathFactory, _toy_run_template: Path
) -> RunDirectory:
    root = tmp_path_factory.mktemp("trained") / "run"
    run = RunDirectory(Path(shutil.copytree(_toy_run_template, root)))
    train_toy(run, training__max_updates=4, training__validate_every=2)
    return run


@pytest.fixture
def run(tmp_path: Path, _trained_template: RunDirectory) -> RunDirectory:
    """A run with the checkpoints 2 and 4."""
    return RunDirectory(Path(shutil.copytree(_trained_template.root, tmp_path / "run")))


@pytest.fixture
def doctor(nmtasync: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Call the doctor, who starts no process; return the exit code and the findings."""

    def none() -> Iterator[Finding]:
        yield ok("processes", "not tried")

    monkeypatch.setattr(machine, "_processes", none)

    def call(*arguments: object) -> tuple[int, list[dict[str, str]]]:
        result = nmtasync("doctor", *arguments, "--json")
        assert "Traceback" not in result.stderr
        findings = json.loads(result.stdout)
        for finding in findings:
            assert (finding["status"] == "ok") == (finding["remedy"] == ""), finding
        return result.returncode, findings

    return call


def complaints(findings: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    found = ((each["check"], each["status"], each["what"]) for each in findings)
    return [each for each in found if each[1] != "ok"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_sound_run(run, doctor):
    before = sorted((p, p.stat().st_mtime_ns) for p in run.root.rglob("*"))
    code, findings = doctor(run.root)
    assert code == 0
    assert not [each for each in complaints(findings) if each[1] == "problem"]
    assert {"PyTorch", "processors", "shared memory", "data", "corpus", "room"} <= {
        each["check"] for each in findings
    }
    assert [f["what"] for f in findings if f["check"] == "checkpoints"] == [
        "2 is whole",
        "4 is whole",
    ]
    assert before == sorted((p, p.stat().st_mtime_ns) for p in run.root.rglob("*"))


DAMAGES: dict[str, tuple[Callable[[RunDirectory], object], str, str]] = {
    "a byte of the corpus": (
        lambda run: flip(run.data / "train/source.tokens"), "data", "has changed"),
    "no vocabulary": (lambda run: (run.vocab / "joint.model").unlink(), "data", "is missing"),
    "half a vocabulary": (
        lambda run: os.truncate(run.vocab / "joint.model", 900), "corpus", "is no SentencePiece"),
    "half a manifest": (lambda run: os.truncate(run.manifest, 200), "manifest", "is damaged"),
    "an unknown option": (
        lambda run: run.config.write_text("[model]\nsize = 1\n"), "config", "unknown key"),
    "a byte of a model": (
        lambda run: flip(run.checkpoints / "2/model.safetensors"), "checkpoints", "2/model"),
    "a byte of vectors": (
        lambda run: flip(run.checkpoints / "4/training.safetensors"), "checkpoints", "4/training"),
    "a byte of a state": (
        lambda run: flip(run.checkpoints / "4/state.json"), "checkpoints", "checkpoints/4"),
    "no vectors": (
        lambda run: [path.unlink() for path in run.checkpoints.glob("*/training.safetensors")],
        "checkpoints", "none can be gone on from"),
    "no latest": (lambda run: (run.checkpoints / "latest").unlink(), "pointers", "is missing"),
    "a best that is gone": (
        lambda run: (run.checkpoints / "best").write_text("3\n"), "pointers", "best names 3"),
    "a pointer to nothing": (
        lambda run: (run.checkpoints / "best").write_text("x"), "pointers", "does not name"),
    "validations cut off": (
        lambda run: os.truncate(run.checkpoints / "validations.json", 20), "validations", "read"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_a_problem(run, doctor, name):
    damage, check, words = DAMAGES[name]
    damage(run)
    code, findings = doctor(run.root)
    assert code == 1
    assert [each for each in complaints(findings) if check == each[0] and words in each[2]]
    assert {each[1] for each in complaints(findings) if each[0] == check} == {"problem"}


def test_what_a_killed_process_has_left_is_a_warning(run, doctor):
    (run.checkpoints / ".6.123.tmp").mkdir()
    code, findings = doctor(run.root)
    assert code == 0
    (found,) = (each for each in complaints(findings) if each[0] == "leftovers")
    assert "checkpoints/.6.123.tmp" in found[2]


def test_a_run_that_is_worked_in(run, doctor):
    with run.lock():
        code, findings = doctor(run.root)
    assert code == 0
    assert [each[0] for each in complaints(findings) if each[0] == "lock"]
    assert not [each for each in complaints(doctor(run.root)[1]) if each[0] == "lock"]


def test_a_disk_without_room_for_checkpoints(run, doctor, monkeypatch):
    sizes = SimpleNamespace(free=1000, total=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: sizes)
    code, findings = doctor(run.root)
    assert code == 1
    assert ("room", "problem") in {each[:2] for each in complaints(findings)}


def test_a_directory_that_is_no_run_or_not_there(tmp_path, doctor, nmtasync):
    code, findings = doctor(tmp_path)
    assert code == 1
    assert [each[0] for each in complaints(findings) if each[1] == "problem"] == ["manifest"]
    result = nmtasync("doctor", tmp_path / "none")
    assert result.returncode == 2 and "there is no such directory" in result.stderr


def refuse(*arguments: object) -> None:
    raise NmtasyncError("shared memory is full", where="/dev/shm", remedy="enlarge it")


def long_folder(tmp_path: Path) -> str:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    return str(folder)


@pytest.mark.parametrize(
    ("patch", "check", "status"),
    [
        (lambda patch, _: patch.setattr(machine, "share", refuse), "shared memory", "problem"),
        (
            lambda patch, _: patch.setattr(machine, "available_cores", lambda: 0),
            "processors",
            "warning",
        ),
        (
            lambda patch, path: patch.setattr(tempfile, "tempdir", long_folder(path)),
            "TMPDIR",
            "warning",
        ),
        (
            lambda patch, _: patch.setattr(locale, "getpreferredencoding", lambda *_: "ASCII"),
            "text",
            "warning",
        ),
        (lambda patch, _: patch.setenv("HOME", "/nowhere"), "HOME", "warning"),
    ],
)
def test_a_machine_that_lacks_something(doctor, monkeypatch, tmp_path, patch, check, status):
    patch(monkeypatch, tmp_path)
    code, findings = doctor()
    assert (check, status) in {each[:2] for each in complaints(findings)}
    assert code == (status == "problem")


@pytest.mark.processes
def test_the_table_and_a_child_that_answers(nmtasync_process):
    result = nmtasync_process("doctor")
    assert result.returncode == 0, result.stderr
    assert "a child answers" in result.stdout and "0 problem(s)" in result.stdout
    assert "what to do" in result.stdout and not result.stderr


@pytest.mark.processes
def test_a_child_that_ends_is_a_problem(monkeypatch):
    monkeypatch.setattr(machine, "answer", os.kill)  # which refuses these arguments
    (found,) = machine._processes()
    assert found.status == "problem" and "--devices cpu" in found.remedy
