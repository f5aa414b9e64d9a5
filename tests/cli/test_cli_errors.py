"""What the system refuses, and names that are no UTF-8: a line, an exit code, and no traceback."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cli.main import main
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.training import train
from tests.support.command_line import CommandLine
from tests.support.repository import REPOSITORY


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m cli {line}"
    return subprocess.run(
        command, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_a_name_that_is_too_long(nmtasync: CommandLine):
    result = nmtasync("train", "x" * 300)
    assert result.returncode == 2
    assert result.stderr == f"nmtasync: error: {'x' * 300}{RUN_FILE}: {TOO_LONG}\n"


RUN_FILE = "/manifest.json"
TOO_LONG = "can't be used: File name too long; choose another place"


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_into_a_full_disk(tmp_path):
    result = shell(f"train {tmp_path / 'run'} --dump-config > /dev/full")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("nmtasync: error: standard output: the disk or its quota is full")


@pytest.mark.processes
@pytest.mark.parametrize(("closed", "name"), [("<&-", "input"), (">&-", "output")])
def test_closed_streams_are_told_before_a_model_is_loaded(tmp_path, closed, name):
    result = shell(f"translate {tmp_path / 'run'} {closed}")
    assert result.returncode == 2
    assert result.stderr.startswith(f"nmtasync: error: standard {name}: is closed")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has a total of"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_too_little_memory(toy_run, monkeypatch, capsys, error):
    def raising(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(train, "train", raising)
    with pytest.raises(SystemExit) as end:
        main(["train", str(toy_run.root)])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nmtasync: error: memory does not suffice")
    assert "data.batch_tokens" in line
    assert "GPU 0" not in line


def test_what_is_no_lack_of_memory_keeps_its_traceback(toy_run, monkeypatch):
    def raising(*arguments: object, **options: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(train, "train", raising)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["train", str(toy_run.root)])


def test_a_file_system_without_locks_is_not_said_to_be_in_use(toy_run, monkeypatch):
    def refusing(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refusing)
    with pytest.raises(UserError, match="can't lock files: No locks available"), toy_run.lock():
        pass


def test_names_that_are_no_utf_8(tmp_path, toy_corpus, nmtasync_process: CommandLine):
    corpus = tmp_path / os.fsdecode(b"[clean] fran\xe7ais")
    corpus.symlink_to(toy_corpus)
    pairs = [corpus / f"{part}.{side}" for part in ("train", "valid") for side in ("src", "tgt")]
    run = tmp_path / os.fsdecode(b"r\xfcn")
    arguments = ["preprocess", run, "--train", *pairs[:2], "--valid", *pairs[2:]]
    shown = nmtasync_process(*arguments, "--vocab-size", "300")
    assert shown.returncode == 0, shown.stderr
    assert "[clean] fran\N{REPLACEMENT CHARACTER}ais/train.src:" in shown.stdout
    manifest = json.loads(RunDirectory(run).manifest.read_text("utf-8"))
    assert manifest["inputs"][0]["path"] == str(pairs[0]), "the very name comes back"
    told = nmtasync_process(*arguments, "--vocab-size", "300", "--overwrite", "--json")
    assert told.returncode == 0, told.stderr
    json.loads(told.stdout)
    borrowed = nmtasync_process("preprocess", tmp_path / "b", *arguments[2:], "--vocab-from", run)
    assert borrowed.returncode == 2
    assert "must be text in UTF-8" in borrowed.stderr
