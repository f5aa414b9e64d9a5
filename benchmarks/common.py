"""What benchmarks share: a corpus to train on, and how figures are summed up."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory

REPOSITORY = Path(__file__).parent.parent


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


def describe(values: list[float], form: str = "{:,.0f}") -> str:
    """Median, least and most."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"
