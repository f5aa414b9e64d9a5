"""File systems that refuse what others do: names of directories that can't be synced."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.toy import TOY_FLAGS


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_the_whole_way_where_directories_can_not_be_synced(
    tmp_path: Path,
    toy_corpus: Path,
    nmtasync: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    fsync, refused = os.fsync, 0

    def refuse_directories(descriptor: int) -> None:
        nonlocal refused
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused += 1
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    run = tmp_path / "run"
    train, valid = (
        [toy_corpus / f"{part}.{side}" for side in ("src", "tgt")] for part in ("train", "valid")
    )
    command = ["preprocess", run, "--train", *train, "--valid", *valid]
    commands = (
        [*command, "--vocab-size", "300", "--no-drop-protected"],
        ["train", run, *TOY_FLAGS, "--max-updates=3"],
        ["train", run, *TOY_FLAGS, "--max-updates=5"],
        ["evaluate", run, "--test", "again", *valid],
    )
    for arguments in commands:
        result = nmtasync(*arguments)
        assert result.returncode == 0, result.stderr
    assert refused > 10


def test_a_file_that_can_not_be_synced_is_an_error(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content may be lost with the power; that must not pass as written."""

    def refuse(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    sides = [toy_corpus / f"train.{side}" for side in ("src", "tgt")]
    result = nmtasync("preprocess", tmp_path / "run", "--train", *sides, "--valid", *sides)
    assert result.returncode == 1
    assert "input or output failed" in result.stderr
    assert not (tmp_path / "run" / "manifest.json").exists()
