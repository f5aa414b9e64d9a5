#!/usr/bin/env python
"""The noise scale that a run measures as it goes, against a direct estimate at fixed parameters.

    python benchmarks/noise_scale.py [--corpus RUN]

Simulated workers train a small recurrent network. Near each point the run stops several times; the
gradients of the batches that come next, all at the parameters of that moment, give the signal |G|²
and the noise tr Σ directly: the product of all pairs of them, and what their squares have beyond
it. The signal goes up and down by a factor of two within a hundred updates, so the direct estimate
is the mean over these moments. What the run has measured is the mean of the pairs that it has seen
lately, one of each five pushes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common import prepare
from rich.console import Console
from safetensors.torch import load_file

from nmtasync.checkpoints import store
from nmtasync.config.load import resolve
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.epochs import plan_corpus
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.models.build import ModelSpec
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from nmtasync.server.noise_scale import GradientSums
from nmtasync.training.train import train
from nmtasync.worker.gradient import WindowGradient

SETTINGS: dict[str, Any] = {
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
    "training.validate_every": 10**9,
    "training.keep_checkpoints": 1,
}


def copy(corpus: Path, directory: str) -> RunDirectory:
    """Make a RUN with the same corpus and nothing else."""
    there, here = RunDirectory(corpus), RunDirectory(Path(directory) / "run")
    shutil.copytree(there.data, here.data)
    shutil.copytree(there.vocab, here.vocab)
    shutil.copy(there.manifest, here.manifest)
    shutil.copy(there.config, here.config)
    return here


def latest(run: RunDirectory) -> tuple[Path, dict[str, Any]]:
    """The latest checkpoint and its state."""
    checkpoint = run.checkpoints / str(store.pointed(run, "latest"))
    return checkpoint, json.loads((checkpoint / "state.json").read_text("utf-8"))


def direct(run: RunDirectory, num_batches: int) -> GradientSums:
    """Sum up the gradients of the next batches, at the parameters of the latest checkpoint."""
    checkpoint, state = latest(run)
    config, corpus = resolve(SETTINGS), ParallelShards.open(run.data / "train")
    vocabularies = VocabularyPair.load(run.vocab)
    spec = ModelSpec(config.model, vocabularies.source.size, vocabularies.target.size)
    flat = FlatModel(spec.build())
    flat.parameters.copy_(load_file(checkpoint / "training.safetensors")["parameters"])
    gradient = WindowGradient(flat, corpus, config)
    epoch, position = state["cursor"]["epoch"], state["cursor"]["position"]
    total, squares, words = torch.zeros(flat.size, dtype=torch.float64), [], []
    while len(words) < num_batches:
        plan = plan_corpus(corpus, config, epoch)
        for index in range(position, min(position + num_batches - len(words), len(plan))):
            gradient.begin_sum()
            figures = gradient.add_assigned(AssignedBatch(epoch, index, plan[index]))
            total += flat.gradients
            squares.append(float(flat.gradients.double().square().sum()))
            words.append(figures.target_words)
        epoch, position = epoch + 1, 0
    sums = GradientSums()
    sums.add((float(total.square().sum()) - sum(squares)) / 2, squares, words)
    return sums


def mean(moments: list[GradientSums]) -> GradientSums:
    """The mean of each sum."""
    each = [asdict(moment) for moment in moments]
    means = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    return GradientSums(**means)


def measured(run: RunDirectory) -> GradientSums:
    """Read what the run has measured until its latest checkpoint."""
    return GradientSums(**latest(run)[1]["measured"]["noise"]["all"])


def main() -> None:
    """Print a line for each point, and one in JSON with the sums behind it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="a preprocessed RUN; else the demo's corpus")
    parser.add_argument("--points", default="500,2000,6000", help="updates at which to compare")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="constant")
    parser.add_argument("--moments", type=int, default=8, help="at which a point is looked at")
    parser.add_argument("--apart", type=int, default=40, help="updates between two of them")
    parser.add_argument("--batches", type=int, default=150, help="of the direct estimate, at each")
    options = parser.parse_args()
    SETTINGS["schedule.learning_rate"] = options.learning_rate
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        run = copy(options.corpus, directory) if options.corpus else prepare(Path(directory))
        for updates in map(int, options.points.split(",")):
            moments = []
            for number in reversed(range(options.moments)):
                settings = {**SETTINGS, "training.max_updates": updates - number * options.apart}
                train(run, settings, resume=True, console=Console(quiet=True))
                moments.append(direct(run, options.batches))
            there, here = mean(moments), measured(run)
            scales = [sums.noise(sums.signal) / sums.signal for sums in (there, here)]
            print(
                f"update {updates:,}: direct {scales[0]:,.0f} words, measured {scales[1]:,.0f}, "
                f"ratio {scales[1] / scales[0]:.2f}"
            )
            signals = [round(moment.signal, 4) for moment in moments]
            found = {"signals": signals, "direct": asdict(there), "measured": asdict(here)}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
