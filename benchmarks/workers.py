"""Target words a second of one worker, two asynchronous ones, two synchronous ones, one slowed.

Trains for some seconds in each setting, one after another, several times over. A speed is that of
the steady state: of each worker the words after its first push, by the time since that push. The
slow worker sleeps twice as long as it computes after each batch, so alone it has a third of the
speed. The rest of a worker's time, besides computing, is its exchange.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.data.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.server.messages import Push, Reply
from nmtasync.training import gradient, local, synchronous
from nmtasync.training.rank_process import RankSetup, run_rank
from nmtasync.training.reporting import Reporter
from nmtasync.training.train import train
from nmtasync.training.worker_process import WorkerSetup, run_worker

REPOSITORY = Path(__file__).parent.parent
SLOW_WORKER = 1
SLEEP_PER_COMPUTE = 2.0

SETTINGS = {
    "model.dimension": 256,
    "model.feed_forward": 1024,
    "model.encoder_layers": 3,
    "model.decoder_layers": 3,
    "data.batch_tokens": 800,
    "asynchronous.threads": 1,
    "asynchronous.optimizer_delay": 2,
    "training.validate_every": 10**9,
    "training.log_every_seconds": 1e9,
}

CASES = {
    "1 worker": ("local", "cpu", False),
    "2 asynchronous": ("local", "cpu,cpu", False),
    "2 synchronous": ("synchronous", "cpu,cpu", False),
    "2 asynchronous, one slow": ("local", "cpu,cpu", True),
    "2 synchronous, one slow": ("synchronous", "cpu,cpu", True),
}


def slowed(add_gradient: Callable[..., Any]) -> Callable[..., Any]:
    """Let a gradient take three times as long, the processor being idle for two thirds of it."""

    def compute(*arguments: Any) -> Any:
        begin = time.perf_counter()
        figures = add_gradient(*arguments)
        time.sleep(SLEEP_PER_COMPUTE * (time.perf_counter() - begin))
        return figures

    return compute


def run_slow_worker(setup: WorkerSetup, connection: Connection) -> None:
    """A worker process of which one is slow."""
    if setup.index == SLOW_WORKER:
        gradient.add_gradient = slowed(gradient.add_gradient)
    run_worker(setup, connection)


def run_slow_rank(setup: RankSetup, connection: Connection) -> None:
    """A rank process of which one is slow."""
    if setup.index == SLOW_WORKER:
        gradient.add_gradient = slowed(gradient.add_gradient)
    run_rank(setup, connection)


class Recorder:
    """Notes each push as it is reported, and ends training after some seconds.

    Args:
        num_pushing: How many workers report; synchronous ones report as one.
        seconds: How long to measure, at least; longer until each has pushed four times.
    """

    def __init__(self, num_pushing: int, seconds: float) -> None:
        self.num_pushing = num_pushing
        self.seconds = seconds
        self.pushes: dict[int, list[tuple[float, Push]]] = {}
        self.begin: float | None = None

    def note(self, push: Push) -> None:
        """Note a push; the clock begins when all workers have pushed once."""
        now = time.perf_counter()
        self.pushes.setdefault(push.worker, []).append((now, push))
        if self.begin is None and len(self.pushes) == self.num_pushing:
            self.begin = now
        often = min(len(pushes) for pushes in self.pushes.values()) >= 4
        if often and self.begin and now - self.begin > self.seconds:
            os.kill(os.getpid(), signal.SIGTERM)
            self.seconds = float("inf")

    def speed(self) -> float:
        """Target words a second of all workers."""
        return sum(
            sum(push.target_words for _, push in pushes[1:]) / (pushes[-1][0] - pushes[0][0])
            for pushes in self.pushes.values()
        )

    def share_outside_computing(self) -> float:
        """The share of the fast worker's time in which it did not compute."""
        pushes = self.pushes[0]
        computing = sum(push.compute_seconds for _, push in pushes[1:])
        return 1.0 - computing / (pushes[-1][0] - pushes[0][0])


def run_case(run: RunDirectory, case: str, seconds: float) -> Recorder:
    """Train in one setting from the beginning."""
    driver, devices, slow = CASES[case]
    recorder = Recorder(2 if (driver, devices) == ("local", "cpu,cpu") else 1, seconds)
    original = Reporter.pushed

    def pushed(
        self: Reporter, push: Push, reply: Reply, exchange_seconds: float, clocks: dict[str, Any]
    ) -> None:
        recorder.note(push)
        original(self, push, reply, exchange_seconds, clocks)

    settings = {
        **SETTINGS,
        "asynchronous.driver": driver,
        "asynchronous.devices": devices,
    }
    Reporter.pushed = pushed  # type: ignore[method-assign]
    local.run_worker = run_slow_worker if slow else run_worker
    synchronous.run_rank = run_slow_rank if slow else run_rank
    with Path(os.devnull).open("w") as nowhere:
        train(run, settings, resume=False, console=Console(file=nowhere))
    Reporter.pushed = original  # type: ignore[method-assign]
    return recorder


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


def main() -> None:
    """Measure all settings in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {case: [] for case in CASES}
    outside: dict[str, list[float]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as directory:
        run = prepare(Path(directory))
        for _ in range(arguments.repeats):
            for case in CASES:
                recorder = run_case(run, case, arguments.seconds)
                speeds[case].append(recorder.speed())
                outside[case].append(recorder.share_outside_computing())
                print(f"  {case:26} {speeds[case][-1]:8,.0f} target words/s", flush=True)
    one = speeds["1 worker"]
    print(f"\n{'':26} {'target words/s':26} {'times 1 worker':22} not computing (worker 0)")
    for case in CASES:
        ratios = [speed / alone for speed, alone in zip(speeds[case], one, strict=True)]
        shares = describe([100 * share for share in outside[case]], "{:.1f}%")
        print(f"{case:26} {describe(speeds[case]):26} {describe(ratios, '{:.2f}'):22} {shares}")
    slow = speeds["2 asynchronous, one slow"]
    alone = 1 + 1 / (1 + SLEEP_PER_COMPUTE)
    shares_of_sum = [100 * s / (o * alone) for s, o in zip(slow, one, strict=True)]
    print(f"asynchronous with a slow one, of the sum of both alone: {describe(shares_of_sum)} %")


if __name__ == "__main__":
    main()
