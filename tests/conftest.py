"""Shared pieces of the tests: a toy corpus, a preprocessed RUN, the real command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.data.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.training.session import Session
from tests.support.command_line import CommandLine
from tests.support.repository import REPOSITORY
from tests.support.toy import write_toy_corpus


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run beside each other: one thread each."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with train and valid .src and .tgt."""
    directory = tmp_path_factory.mktemp("toy-corpus")
    write_toy_corpus(directory)
    return directory


@pytest.fixture(scope="session")
def _toy_run_template(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    run = RunDirectory(tmp_path_factory.mktemp("toy-run") / "run")
    train, valid = (
        PairPaths(toy_corpus / f"{part}.src", toy_corpus / f"{part}.tgt")
        for part in ("train", "valid")
    )
    options = DataConfig(vocab_size=46, byte_fallback=False, deduplicate=False)
    preprocess(run, [train], [valid], options)
    return run.root


@pytest.fixture
def toy_run(tmp_path: Path, _toy_run_template: Path) -> RunDirectory:
    """A fresh RUN with the toy corpus, preprocessed."""
    return RunDirectory(shutil.copytree(_toy_run_template, tmp_path / "run"))


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, int]]:
    """Every push that the server takes while the test runs: when, whose, how many updates late."""
    seen: list[tuple[float, int, int]] = []
    exchange = Session.exchange

    def noted(self: Session, computed, payload, landing, *rest):
        reply = exchange(self, computed, payload, landing, *rest)
        assert len(set(reply.staleness)) == 1, "all shards take a push at once"
        seen.append((self.seconds, computed.push.worker, reply.staleness[0]))
        return reply

    monkeypatch.setattr(Session, "exchange", noted)
    return seen


@pytest.fixture(scope="session")
def nmtasync() -> CommandLine:
    """Run the real command line in a process of its own."""

    def run(
        *arguments: object, stdin: str | bytes | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        raw = stdin.encode("utf-8") if isinstance(stdin, str) else stdin
        result = subprocess.run(
            [sys.executable, "-m", "cli", *map(str, arguments)],
            cwd=REPOSITORY,
            input=raw,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        return subprocess.CompletedProcess(
            result.args,
            result.returncode,
            result.stdout.decode("utf-8", "replace"),
            result.stderr.decode("utf-8", "replace"),
        )

    return run
