"""What was cut off is gone on with, and ends with the same bytes as undisturbed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nmtasync.config.schema import DataConfig
from nmtasync.data import journaled_files
from nmtasync.data.corpus import PairPaths
from nmtasync.data.journaled_files import JournaledFiles
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.preprocessing import staging
from nmtasync.preprocessing.clean_block import BlockCleaner
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from tests.support.processes import group_of
from tests.support.repository import REPOSITORY

CONFIG = DataConfig(vocab_size=300, max_length=60, deduplicate_side="target")


def write_corpus(directory: Path, name: str, num_pairs: int, seed: int) -> PairPaths:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 5))) for _ in range(100)]
    paths = PairPaths(directory / f"{name}.src", directory / f"{name}.tgt", name=name)
    assert paths.target is not None
    with paths.source.open("w") as source, paths.target.open("w") as target:
        for _ in range(num_pairs):
            line = rng.choices(words, k=rng.randint(0, 7))
            source.write(" ".join(line) + "\n")
            target.write(" ".join(reversed(line)).upper() + "\n" if rng.random() < 0.95 else "12\n")
    return paths


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[list[PairPaths], list[PairPaths]]:
    train = [write_corpus(tmp_path, name, 150, seed) for name, seed in (("one", 1), ("two", 2))]
    return train, [write_corpus(tmp_path, "valid", 30, 3)]


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """A commit every second block of ten pairs."""
    with (
        mock.patch.object(staging, "BLOCK_PAIRS", 10),
        mock.patch.object(journaled_files, "COMMIT_CHUNKS", 2),
    ):
        yield


def tree(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def run_until(run: Path, inputs: Any, calls: int | None) -> tuple[bool, int]:
    """Preprocess in a process that dies at a call that writes; say whether, and the blocks read."""
    there, here = os.pipe()
    child = os.fork()
    if child:
        os.close(here)
        with os.fdopen(there, "rb") as pipe:
            cleaned = len(pipe.read())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        return code == 9, cleaned
    left = calls

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    os._exit(9)
            return function(*arguments, **options)

        return call

    def counting(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            os.write(here, b".")
            return function(*arguments)

        return call

    try:
        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, dying(getattr(os, name)))
        JournaledFiles.append = dying(JournaledFiles.append)  # type: ignore[method-assign]
        BlockCleaner.__call__ = counting(BlockCleaner.__call__)  # type: ignore[method-assign]
        rejects = run.with_suffix(".rejects")
        preprocess(RunDirectory(run), *inputs, CONFIG, rejects=rejects, num_processes=1)
        os._exit(0)
    except UserError as error:
        # It was killed after the decision; this one has finished its installation.
        os._exit(0 if "already preprocessed" in str(error) else 1)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@pytest.mark.slow
def test_killed_anywhere_the_next_goes_on_to_the_same_bytes(tmp_path: Path, inputs: Any) -> None:
    expected = tmp_path / "expected"
    killed, all_blocks = run_until(expected, inputs, None)
    assert not killed
    assert all_blocks == 33
    rng, kills = random.Random(1), 0
    for attempt in range(10):
        run = tmp_path / str(attempt)
        while run_until(run, inputs, rng.randrange(5, 140))[0]:
            kills += 1
        assert tree(run) == tree(expected)
        rejects = [path.with_suffix(".rejects").read_bytes() for path in (run, expected)]
        assert rejects[0] == rejects[1]
    assert kills > 10


def test_what_was_read_is_not_read_again(tmp_path: Path, inputs: Any) -> None:
    run = tmp_path / "run"
    killed, first = run_until(run, inputs, 90)
    assert killed and first > 10
    killed, rest = run_until(run, inputs, None)
    assert not killed and rest <= 33 - first + 2


def test_a_changed_input_or_option_begins_anew(tmp_path: Path, inputs: Any) -> None:
    run = tmp_path / "run"
    assert run_until(run, inputs, 60)[0]
    with inputs[0][0].source.open("a") as source, inputs[0][0].target.open("a") as target:
        source.write("abc abc\n")
        target.write("ABC ABC\n")
    killed, cleaned = run_until(run, inputs, None)
    assert not killed and cleaned == 34
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["train"]["num_read"] == 301


@pytest.mark.processes
def test_a_full_disk_is_one_line_and_the_same_goes_on_with_room(
    tmp_path: Path, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, expected = tmp_path / "run", tmp_path / "expected"
    append, calls = JournaledFiles.append, 0

    def full(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(*arguments)

    monkeypatch.setattr(JournaledFiles, "append", full)
    with pytest.raises(NmtasyncError, match="run the same command again"):
        preprocess(RunDirectory(run), *inputs, CONFIG)
    assert not (run / "manifest.json").exists()
    monkeypatch.setattr(JournaledFiles, "append", append)
    preprocess(RunDirectory(run), *inputs, CONFIG)
    preprocess(RunDirectory(expected), *inputs, CONFIG)
    assert tree(run) == tree(expected)


@pytest.mark.system
@pytest.mark.processes
def test_the_command_killed_ten_times(tmp_path: Path) -> None:
    """The whole process group, with workers, wherever it is then."""
    train, valid = write_corpus(tmp_path, "train", 400_000, 1), write_corpus(tmp_path, "v", 99, 2)
    files = [str(path) for paths in (train, valid) for path in paths.all()]
    rng = random.Random(5)

    def command(run: Path) -> list[str]:
        flags = ["--train", *files[:2], "--valid", *files[2:], "--vocab-size", "300"]
        return [sys.executable, "-m", "cli", "preprocess", str(run), *flags]

    subprocess.run(command(tmp_path / "expected"), cwd=REPOSITORY, check=True)
    kills = 0
    while kills < 10:
        process = subprocess.Popen(
            command(tmp_path / "run"), cwd=REPOSITORY, start_new_session=True
        )
        end = time.monotonic() + rng.uniform(0.5, 6.0)
        while process.poll() is None and time.monotonic() < end:
            os.sched_yield()
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 3
    subprocess.run(command(tmp_path / "run"), cwd=REPOSITORY, check=kills == 10)
    assert not group_of(process)
    assert tree(tmp_path / "run") == tree(tmp_path / "expected")
