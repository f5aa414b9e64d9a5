#!/usr/bin/env python
"""The noise scale that a run measures as it goes, against a direct estimate at fixed parameters.

    python benchmarks/noise_scale.py [--corpus RUN]

Simulated workers train a small recurrent network, and the run measures the noise scale of pairs of
pushes, one of each five. At each such moment the gradients of other batches, all at the server's
parameters of that moment, give the signal |G|² and the noise tr Σ directly: the product of all
pairs of them, and what their squares have beyond it. Both are means over the last fifth of all
moments, with the same weights: the signal goes up and down by a factor of ten within a hundred
updates, so estimates of different moments can't be compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import SMALL_RECURRENT, corpus_to_train_on
from rich.console import Console
from torch import Tensor

from nmtasync.checkpoints import store
from nmtasync.config.load import resolve
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.epochs import plan_corpus
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.models.build import ModelSpec
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from nmtasync.server.messages import Reply
from nmtasync.server.noise_scale import GradientSums
from nmtasync.server.server import Server
from nmtasync.training.train import train
from nmtasync.worker.gradient import WindowGradient

SETTINGS = {**SMALL_RECURRENT, "training.validate_every": 10**9}

OTHER_EPOCH = 1000
"""The direct estimate takes its batches from an epoch that the run does not come to."""


class DirectEstimate:
    """The signal and noise at the moments at which a server compares two pushes.

    Args:
        run: Its corpus and vocabularies.
        num_batches: So many gradients are taken at the parameters of each moment.

    Attributes:
        sums: Of all moments, with the weights that the server's own pairs have.
        signals: |G|² of each moment.
    """

    def __init__(self, run: RunDirectory, num_batches: int) -> None:
        config, corpus = resolve(SETTINGS), ParallelShards.open(run.data / "train")
        vocabularies = VocabularyPair.load(run.vocab)
        spec = ModelSpec(config.model, vocabularies.source.size, vocabularies.target.size)
        self.flat = FlatModel(spec.build())
        self.gradient = WindowGradient(self.flat, corpus, config)
        self.batches = itertools.cycle(
            AssignedBatch(OTHER_EPOCH, index, sentences)
            for index, sentences in enumerate(plan_corpus(corpus, config, OTHER_EPOCH))
        )
        self.num_batches = num_batches
        self.sums = GradientSums()
        self.signals: list[float] = []

    def watch(self, exchange: Callable[..., Reply]) -> Callable[..., Reply]:
        """Wrap a server's `exchange`."""

        def watched(server: Server, *arguments: Any, **named: Any) -> Reply:
            pairs = server.measured.noise.all.pairs
            reply = exchange(server, *arguments, **named)
            if server.measured.noise.all.pairs > pairs:
                self._look(server.parameters)
            return reply

        return watched

    def _look(self, parameters: Tensor) -> None:
        self.flat.parameters.copy_(parameters)
        total, squares, words = torch.zeros(self.flat.size, dtype=torch.float64), [], []
        for batch in itertools.islice(self.batches, self.num_batches):
            self.gradient.begin_sum()
            words.append(self.gradient.add_assigned(batch).target_words)
            total += self.flat.gradients
            squares.append(float(self.flat.gradients.double().square().sum()))
        moment = GradientSums()
        for sums in (moment, self.sums):
            sums.add((float(total.square().sum()) - sum(squares)) / 2, squares, words)
        self.signals.append(moment.signal)


def measured(run: RunDirectory) -> GradientSums:
    """Read what the run has measured until its latest checkpoint."""
    checkpoint = run.checkpoints / str(store.pointed(run, "latest"))
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    return GradientSums(**state["measured"]["noise"]["all"])


def scale(sums: GradientSums) -> float:
    """The noise scale in target words."""
    return sums.noise(sums.signal) / sums.signal


def main() -> None:
    """Print a line for each point, and one in JSON with the sums behind it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="a preprocessed RUN; else the demo's corpus")
    parser.add_argument("--points", default="1000,2000,4000", help="updates at which to compare")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="constant")
    parser.add_argument("--batches", type=int, default=16, help="of the direct estimate")
    options = parser.parse_args()
    SETTINGS["schedule.learning_rate"] = options.learning_rate
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        run = corpus_to_train_on(options.corpus, Path(directory))
        direct = DirectEstimate(run, options.batches)
        with mock.patch.object(Server, "exchange", direct.watch(Server.exchange)):
            for updates in map(int, options.points.split(",")):
                settings = {**SETTINGS, "training.max_updates": updates}
                train(run, settings, resume=True, console=Console(quiet=True))
                here, there = measured(run), direct.sums
                print(
                    f"update {updates:,}: direct {scale(there):,.0f} words, "
                    f"measured {scale(here):,.0f}, ratio {scale(here) / scale(there):.2f}"
                )
                deciles = statistics.quantiles(direct.signals[-len(direct.signals) // 5 :], n=10)
                found = {
                    "deciles of the signal, last fifth": [round(signal, 4) for signal in deciles],
                    "direct": asdict(there),
                    "measured": asdict(here),
                }
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
