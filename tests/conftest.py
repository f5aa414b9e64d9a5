"""Shared pieces of the tests: a toy corpus, a preprocessed RUN, the real command line."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.data.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.training.session import Session

REPOSITORY = Path(__file__).parent.parent

TOY_MODEL = {
    "model.dimension": 16,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "data.batch_tokens": 120,
    "training.validate_bleu": False,
    "training.validate_metric": "cross_entropy",
    "asynchronous.devices": "cpu",
    "asynchronous.threads": 1,  # tests run beside each other
}
"""Settings of a model so small that a batch takes a few milliseconds."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run beside each other: one thread each."""
    torch.set_num_threads(1)


def write_toy_corpus(directory: Path, num_pairs: int = 300) -> None:
    """Write train and valid .src and .tgt: spelled-out digits, the target in reverse order."""
    words = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rng = random.Random(1)
    for part, number in (("train", num_pairs), ("valid", 20)):
        lines = [[rng.randrange(10) for _ in range(rng.randint(1, 6))] for _ in range(number)]
        source = "".join(" ".join(words[d] for d in line) + "\n" for line in lines)
        target = "".join(" ".join(names[d] for d in line[::-1]) + "\n" for line in lines)
        (directory / f"{part}.src").write_text(source, "utf-8")
        (directory / f"{part}.tgt").write_text(target, "utf-8")


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

    def noted(self: Session, push, payload, landing, *rest):
        reply = exchange(self, push, payload, landing, *rest)
        assert len(set(reply.staleness)) == 1, "all shards take a push at once"
        seen.append((self.seconds, push.worker, reply.staleness[0]))
        return reply

    monkeypatch.setattr(Session, "exchange", noted)
    return seen


CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


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
