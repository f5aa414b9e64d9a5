"""Shared pieces of the tests: a toy corpus, a preprocessed RUN, the real command line."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest
import torch

from cli.main import main
from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.training.session import Session
from tests.support.command_line import CommandLine, Ended, as_bytes, ended
from tests.support.repository import REPOSITORY
from tests.support.toy import write_toy_corpus

hypothesis.settings.register_profile("nmtasync", deadline=None)  # machines may be busy
hypothesis.settings.load_profile("nmtasync")

STARTS_PROCESSES = {"nmtasync_process", "recorded"}
"""Fixtures; who uses one needs no mark of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if STARTS_PROCESSES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


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
    options = DataConfig(
        vocab_size=46, byte_fallback=False, deduplicate=False, drop_protected=False
    )
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


@pytest.fixture
def nmtasync(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> CommandLine:
    """Run the command line in this process: a new one takes seconds to import torch."""

    def run(*arguments: object, stdin: str | bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(as_bytes(stdin))))
        num_threads = torch.get_num_threads()
        capfdbinary.readouterr()  # of what the test itself has printed
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        finally:
            torch.set_num_threads(num_threads)
        captured = capfdbinary.readouterr()
        return ended(int(code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def nmtasync_process() -> CommandLine:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: object, stdin: str | bytes = b"", timeout: float = 120) -> Ended:
        result = subprocess.run(
            [sys.executable, "-m", "cli", *map(str, arguments)],
            cwd=REPOSITORY,
            input=as_bytes(stdin),
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        return ended(result.returncode, result.stdout, result.stderr)

    return run


@pytest.fixture(autouse=True)
def _processes_are_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test that starts a process without saying so fail: `make test-fast` runs without."""
    if request.node.get_closest_marker("processes") or request.node.get_closest_marker("system"):
        return

    def refuse(*arguments: object, **options: object) -> NoReturn:
        pytest.fail("starts a process: mark it with pytest.mark.processes")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(BaseProcess, "start", refuse)
