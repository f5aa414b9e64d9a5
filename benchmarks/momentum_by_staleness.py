#!/usr/bin/env python
"""Momentum that follows the staleness, against what was set by hand for so many workers.

    python benchmarks/momentum_by_staleness.py [--corpus RUN]

A small recurrent network is trained by two, four and eight simulated workers for a few epochs at a
constant rate. By hand: beta1 = 0.9 and a lead of 2 for two workers, 0.95 and 1.5 for more, as they
were before there was `auto`. Printed is the cross-entropy of the validation corpus at the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import SMALL_RECURRENT, corpus_to_train_on, describe
from rich.console import Console

from nmtasync.run_directory import RunDirectory
from nmtasync.training.train import train

BY_HAND = {2: (0.9, 2.0), 4: (0.95, 1.5), 8: (0.95, 1.5)}
"""beta1 and lead by the number of workers."""


def final_cross_entropy(run: RunDirectory, settings: dict[str, Any]) -> float:
    """Train a RUN from its beginning and return the cross-entropy at the end."""
    train(run, settings, resume=False, console=Console(quiet=True))
    lines = (run.logs / "metrics.jsonl").read_text("utf-8").splitlines()
    events = (json.loads(line) for line in lines)
    return float([event for event in events if event["event"] == "valid"][-1]["cross_entropy"])


def main() -> None:
    """Print a line for each number of workers and each choice, and the difference of seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="a preprocessed RUN; else the demo's corpus")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="constant")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        run = corpus_to_train_on(options.corpus, Path(directory))
        for workers, (beta1, lead) in BY_HAND.items():
            shared = {
                **SMALL_RECURRENT,
                "simulation.speeds": ",".join(["1"] * workers),
                "schedule.learning_rate": options.learning_rate,
                "optimizer.beta2": 0.999,
                "training.max_epochs": options.epochs,
                "training.validate_bleu": False,
                "training.validate_metric": "cross_entropy",
            }
            by_hand = {"optimizer.beta1": beta1, "asynchronous.momentum_lead": lead}
            choices: dict[str, dict[str, Any]] = {"by hand": by_hand, "auto": {}}
            found = {
                name: [
                    final_cross_entropy(run, {**shared, **choice, "training.seed": seed})
                    for seed in options.seeds
                ]
                for name, choice in choices.items()
            }
            differences = [a - b for a, b in zip(found["auto"], found["by hand"], strict=True)]
            print(
                f"{workers} workers: by hand {describe(found['by hand'], '{:.3f}')}, auto "
                f"{describe(found['auto'], '{:.3f}')}, less {describe(differences, '{:+.3f}')}",
                flush=True,
            )


if __name__ == "__main__":
    main()
