#!/usr/bin/env python
"""What eight hosts of eight GPUs would do on 10 and 100 Gbit/s, by the simulator's cost model.

    python benchmarks/hosts_simulated.py [--batch-seconds 0.4] [--only TEXT] > table.md

Only times and staleness are told, which no gradient changes: none is computed here, and the pushes
of a tiny network stand for those of 61 million parameters (`simulation.num_parameters`).
Each mini-batch takes --batch-seconds, whatever its words. The pace is the sum of the workers', each
from its third push to its last, when all queues are as long as they get.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import prepare
from rich.console import Console
from torch import nn

from nmtasync.data.batches import Batch
from nmtasync.run_directory import RunDirectory
from nmtasync.training.train import train
from nmtasync.worker import gradient
from nmtasync.worker.gradient import BatchFigures

HOSTS, GPUS = 8, 8
LONGER = 5
"""So many times as long a run must be to see failures."""
PARAMETERS = 61_000_000
WORDS = 3125
"""Target words of a mini-batch on one GPU: Vaswani et al. 2017 have some 25,000 on eight."""
SECONDS_BETWEEN_HOSTS = 1e-4
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 1.25e10}

SETTINGS: dict[str, Any] = {
    "model.dimension": 16,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "data.batch_tokens": 60,
    "asynchronous.driver": "simulated",
    "asynchronous.devices": "cpu",
    "asynchronous.threads": 1,
    "simulation.speeds": ",".join("1" * (HOSTS * GPUS)),
    "simulation.hosts": ",".join([str(GPUS)] * HOSTS),
    "simulation.speed_jitter": 0.1,
    "simulation.num_parameters": PARAMETERS,
    "simulation.exchange_bytes_per_second": 1.2e10,
    "simulation.network_latency_seconds": SECONDS_BETWEEN_HOSTS,
    "training.precision": "fp32",
    "training.validate_every": 10**9,
    "training.validate_bleu": False,
    "training.validate_metric": "cross_entropy",
    "training.log_every_seconds": 0.0,
}

SERVER = {"simulation.server_seconds": 0.006, "asynchronous.num_shards": 1}
SYNCHRONOUS = {"simulation.synchronous": True}
BF16 = {"asynchronous.exchange_precision": "bf16"}
OVERLAP = {"asynchronous.overlap": True}
DROPPING = {"asynchronous.drop_rate": 0.99}
BUSY_SERVER = SERVER | {"simulation.server_seconds": 0.12}
GATHERED = {"asynchronous.hosts": "synchronous"}
DELTAS = {
    "asynchronous.local_optimizer_batches": "always",
    "asynchronous.local_push": "delta",
}
JITTER = {"simulation.network_jitter": 0.5}
FAILURES = {"simulation.host_failure_seconds": 60.0, "simulation.host_outage_seconds": 6.0}
"""Far too often and far too short, so that a short run sees many; what counts is their ratio."""

CASES: list[tuple[str, int, dict[str, Any]]] = [
    *(("synchronous", delay, SYNCHRONOUS) for delay in (1, 4, 16)),
    *(("fp32", delay, SERVER) for delay in (1, 4, 16)),
    *(("bf16", delay, SERVER | BF16) for delay in (1, 4, 16)),
    *(("bf16, overlap", delay, SERVER | BF16 | OVERLAP) for delay in (4, 16)),
    *(("fp32, 99% dropped", delay, SERVER | DROPPING) for delay in (1, 4)),
    *(("bf16, 99% dropped", delay, SERVER | BF16 | DROPPING) for delay in (1, 4)),
    *(("fp32, hosts synchronous", delay, SERVER | GATHERED) for delay in (1, 4)),
    *(("bf16, hosts synchronous", delay, SERVER | BF16 | GATHERED) for delay in (1, 4, 16)),
    ("bf16, hosts synchronous, overlap", 1, SERVER | BF16 | GATHERED | OVERLAP),
    ("bf16, hosts synchronous, local steps", 16, SERVER | BF16 | GATHERED | DELTAS),
    ("bf16, the server on a CPU", 4, BF16 | BUSY_SERVER),
    ("bf16, transfers vary by 50%", 4, SERVER | BF16 | JITTER),
    ("bf16, each host fails each minute, for 6 s", 4, SERVER | BF16 | FAILURES),
]


def no_gradient(model: nn.Module, batch: Batch, *rest: object) -> BatchFigures:
    """Stand for `add_gradient`: a gradient of ones."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.add_(1.0)
    return BatchFigures(torch.zeros(()), batch.target_words, batch.source_words, batch.padding)


def longest_cycle(settings: dict[str, Any], delay: int) -> float:
    """Return for how many seconds a worker is about a window if it waits for all others."""
    many = HOSTS if "asynchronous.hosts" in settings else HOSTS * GPUS
    many = 2 if "simulation.synchronous" in settings else many
    num_bytes = (2 if "asynchronous.exchange_precision" in settings else 4) * PARAMETERS
    transfer = num_bytes / settings["simulation.network_bytes_per_second"]
    exchange = max(transfer, settings.get("simulation.server_seconds", 0.0))
    longer = LONGER if "simulation.host_failure_seconds" in settings else 1
    return float(longer * (2 * delay * settings["simulation.seconds_per_batch"] + many * exchange))


def simulate(
    run: RunDirectory, settings: dict[str, Any], delay: int, cycles: int
) -> tuple[float, float]:
    """Return target words per second, and the mean staleness."""
    minutes = cycles * longest_cycle(settings, delay) / 60
    changes = {"asynchronous.optimizer_delay": delay, "training.max_minutes": minutes}
    options = run.config.read_bytes()
    with Path(os.devnull).open("w") as nowhere:
        train(run, {**SETTINGS, **settings, **changes}, resume=False, console=Console(file=nowhere))
    run.config.write_bytes(options)  # or a run would go on with those of the one before
    lines = map(json.loads, (run.logs / "metrics.jsonl").read_text("utf-8").splitlines())
    trained = [line for line in lines if line["event"] == "train"]
    (run.logs / "metrics.jsonl").unlink()
    moments: dict[str, list[float]] = {}
    for line in trained:
        for worker in line["staleness_by_worker"]:
            moments.setdefault(worker, []).append(line["time_seconds"])
    assert min(map(len, moments.values())) > 4, "too few cycles to tell the pace of all workers"
    pace = sum((len(times) - 3) / (times[-1] - times[2]) for times in moments.values())
    late = statistics.fmean(line["staleness_mean"] for line in trained[len(trained) // 3 :])
    return pace * HOSTS * GPUS / len(moments) * delay * WORDS, late


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-seconds", type=float, default=0.4, help="of a mini-batch on a GPU")
    parser.add_argument("--cycles", type=int, default=7, help="of the slowest worker")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    arguments = parser.parse_args()
    costs = {"simulation.seconds_per_batch": arguments.batch_seconds}
    most = HOSTS * GPUS * WORDS / arguments.batch_seconds
    print(f"{most:,.0f} words/s would be {HOSTS * GPUS} times one GPU.\n")
    heads = [f"words/s, {name} | of {HOSTS * GPUS} GPUs | staleness" for name in NETWORKS]
    print(f"| exchanges | delay | {' | '.join(heads)} |")
    print("| --- | --- |" + " --- |" * 3 * len(NETWORKS))
    gradient.add_gradient = no_gradient
    with tempfile.TemporaryDirectory() as directory:
        run = prepare(Path(directory))
        for name, delay, settings in CASES:
            if arguments.only not in name:
                continue
            cells = []
            for bandwidth in NETWORKS.values():
                network = {"simulation.network_bytes_per_second": bandwidth}
                pace, late = simulate(run, costs | network | settings, delay, arguments.cycles)
                cells += [f"{pace:,.0f}", f"{pace / most:.0%}", f"{late:.1f}"]
            print(f"| {name} | {delay} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
