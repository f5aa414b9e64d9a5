"""What benchmarks share: a corpus to train on, and how figures are summed up."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory

REPOSITORY = Path(__file__).parent.parent

SMALL_RECURRENT: dict[str, Any] = {
    "model.type": "rnn",
    "model.dimension": 64,
    "model.state_dimension": 128,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "data.batch_tokens": 135,
    "schedule.learning_rate": 1e-3,
    "schedule.warmup_updates": 0,
    "schedule.decay": "none",
    "asynchronous.driver": "simulated",
    "asynchronous.devices": "cpu",
    "asynchronous.threads": 1,
    "simulation.speeds": "1,1,1,1",
    "training.precision": "fp32",
    "training.patience": None,
    "training.keep_checkpoints": 1,
}
"""A small recurrent network, trained by four simulated workers at a constant rate."""


def prepare(directory: Path) -> RunDirectory:
    """Generate the demo's corpus and preprocess it."""
    generate = REPOSITORY / "recipes" / "demo" / "generate.py"
    subprocess.run([sys.executable, str(generate), str(directory / "corpus")], check=True)
    pairs = [
        PairPaths(directory / "corpus" / f"{part}.en", directory / "corpus" / f"{part}.de")
        for part in ("train", "valid")
    ]
    run = RunDirectory(directory / "run")
    preprocess(run, pairs[:1], pairs[1:], DataConfig(vocab_size=1600, vocab_type="bpe"))
    return run


def corpus_to_train_on(corpus: Path | None, directory: Path) -> RunDirectory:
    """Make a RUN with a preprocessed RUN's corpus and nothing else, or the demo's."""
    if corpus is None:
        return prepare(directory)
    there, here = RunDirectory(corpus), RunDirectory(directory / "run")
    shutil.copytree(there.data, here.data)
    shutil.copytree(there.vocab, here.vocab)
    shutil.copy(there.manifest, here.manifest)
    shutil.copy(there.config, here.config)
    return here


def describe(values: list[float], form: str = "{:,.0f}") -> str:
    """Median, least and most."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"
