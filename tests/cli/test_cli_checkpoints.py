"""Checkpoints that are gone or damaged: noticed, never used, and nothing is deleted for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line
from tests.support.toy import TOY_FLAGS


@pytest.fixture
def trained(toy_run: RunDirectory, nmtasync: CommandLine) -> RunDirectory:
    """A run with the checkpoints 2, 4 and 6."""
    options = ("--max-updates=6", "--validate-every=2")
    assert nmtasync("train", toy_run.root, *TOY_FLAGS, *options).returncode == 0
    assert numbers(toy_run) == [2, 4, 6]
    return toy_run


def numbers(run: RunDirectory) -> list[int]:
    return sorted(int(path.name) for path in run.checkpoints.iterdir() if path.name.isdigit())


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def flip_a_bit(path: Path, place: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("pointer", [None, "", "six\n", "99\n"])
def test_without_latest_the_newest_whole_checkpoint_is_gone_on_from(
    trained: RunDirectory, nmtasync: CommandLine, pointer
):
    (trained.checkpoints / "latest").unlink()
    if pointer is not None:
        (trained.checkpoints / "latest").write_text(pointer)
    result = nmtasync("train", trained.root, "--max-updates=7")
    assert result.returncode == 0, result.stderr
    assert "going on from the newest whole one, 6" in result.stderr
    assert "resuming at update 6" in result.stderr
    assert (trained.checkpoints / "latest").read_text() == "7\n"


def test_a_newer_one_that_is_not_whole_is_set_aside(trained: RunDirectory, nmtasync: CommandLine):
    """As an interrupted copy leaves it."""
    (trained.checkpoints / "latest").unlink()
    (trained.checkpoints / "6" / "training.safetensors").unlink()
    result = nmtasync("train", trained.root, "--max-updates=7", "--validate-every=1")
    assert result.returncode == 0, result.stderr
    assert "resuming at update 4" in result.stderr and "6.set-aside" in result.stderr
    assert (trained.checkpoints / "6.set-aside" / "model.safetensors").exists()
    assert numbers(trained)[-2:] == [6, 7], "6 again, on the new course"


def test_where_none_is_whole_nothing_is_deleted(trained: RunDirectory, nmtasync: CommandLine):
    (trained.checkpoints / "latest").unlink()
    for number in numbers(trained):
        (trained.checkpoints / str(number) / "state.json").write_text("{")
    before = contents(trained.root)
    result = nmtasync("train", trained.root, "--max-updates=7")
    assert result.returncode == 2
    line = one_line(result.stderr)
    assert "latest is missing" in line.replace(": ", " ") and "--no-resume" in line, line
    assert contents(trained.root) == before


def test_a_pointer_to_nothing_is_no_reason_to_begin_anew(
    trained: RunDirectory, nmtasync: CommandLine
):
    for number in numbers(trained):
        shutil.rmtree(trained.checkpoints / str(number))
    before = contents(trained.root)
    result = nmtasync("train", trained.root, "--max-updates=7")
    assert result.returncode == 2
    assert "no other is there" in one_line(result.stderr)
    assert contents(trained.root) == before


@pytest.mark.parametrize("name", ["training.safetensors", "state.json"])
@pytest.mark.parametrize("place", [0.05, 0.5, 0.95])
def test_a_flipped_bit_is_noticed_and_the_one_before_offered(
    trained: RunDirectory, nmtasync: CommandLine, name, place
):
    flip_a_bit(trained.checkpoints / "6" / name, place)
    before = contents(trained.root)
    result = nmtasync("train", trained.root, "--max-updates=7")
    assert result.returncode == 2, result.stderr
    line = one_line(result.stderr)
    assert line.endswith(f"nmtasync train {trained.root} --resume-from 4"), line
    assert contents(trained.root) == before
    again = nmtasync("train", trained.root, "--max-updates=7", "--resume-from", "4")
    assert again.returncode == 0, again.stderr
    assert "resuming at update 4" in again.stderr
    assert (trained.checkpoints / "latest").read_text() == "7\n"


def test_a_damaged_model_is_not_translated_with(trained: RunDirectory, nmtasync: CommandLine):
    best = (trained.checkpoints / "best").read_text().strip()
    flip_a_bit(trained.checkpoints / best / "model.safetensors")
    result = nmtasync("translate", trained.root, stdin="eins\n")
    assert result.returncode == 2 and result.stdout == ""
    line = one_line(result.stderr)
    assert f"{best}/model.safetensors" in line and "--checkpoint" in line
    other = line.rpartition(" ")[2]
    assert nmtasync("translate", trained.root, "--checkpoint", other, stdin="eins\n").stdout


def test_what_was_resumed_from_an_earlier_one_equals_what_was_never_further(
    trained: RunDirectory, nmtasync: CommandLine, tmp_path
):
    result = nmtasync("train", trained.root, "--max-updates=5", "--resume-from", "4")
    assert result.returncode == 0, result.stderr
    resumed = contents(trained.checkpoints / "5")["training.safetensors"]
    assert nmtasync("train", trained.root, "--max-updates=5", "--no-resume").returncode == 0
    assert contents(trained.checkpoints / "5")["training.safetensors"] == resumed


def test_resuming_from_what_is_not_there(trained: RunDirectory, nmtasync: CommandLine):
    result = nmtasync("train", trained.root, "--resume-from", "5")
    assert result.returncode == 2
    assert "holds no checkpoint 5; there are 2, 4, 6" in one_line(result.stderr)
    result = nmtasync("train", trained.root, "--resume-from", "4", "--no-resume")
    assert result.returncode == 2 and "exclude each other" in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("what", ["shared memory", "socket"])
def test_what_is_found_out_late_does_not_come_after_the_deletion(
    trained: RunDirectory, nmtasync: CommandLine, monkeypatch, what
):
    """What the driver needs is asked for when all else is decided, but before anything goes."""
    from nmtasync.errors import NmtasyncError
    from nmtasync.training.asynchronous import local, workers

    def fail(*arguments: object) -> None:
        raise NmtasyncError(f"no {what}")

    if what == "shared memory":
        monkeypatch.setattr(local.Slot, "allocate", fail)
    else:
        monkeypatch.setattr(local, "Child", fail)
        monkeypatch.setattr(workers, "ValidatorClient", fail)
    before = contents(trained.root / "checkpoints"), trained.config.read_bytes()
    exchanges = (trained.logs / "exchanges.jsonl").read_bytes()
    result = nmtasync("train", trained.root, "--no-resume", "--devices=cpu,cpu")
    assert result.returncode == 1 and f"no {what}" in one_line(result.stderr)
    assert (contents(trained.root / "checkpoints"), trained.config.read_bytes()) == before
    assert (trained.logs / "exchanges.jsonl").read_bytes() == exchanges


def test_checksums_are_in_the_state(trained: RunDirectory):
    import hashlib

    directory = trained.checkpoints / "6"
    seal = json.loads((directory / "state.json").read_text())["sha256"]
    for name in ("model.safetensors", "training.safetensors"):
        assert seal[name] == hashlib.sha256((directory / name).read_bytes()).hexdigest()
