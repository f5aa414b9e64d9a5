"""Target words a second of one worker, two asynchronous ones, two synchronous ones, one slowed.

With `--devices`, for example cuda:0,cuda:0,cuda:1,cuda:1, those devices are used: the first, the
first two, the first four. A GPU named twice leaves the synchronous cases out, which NCCL refuses.

Trains for some seconds in each setting, one after another, several times over. A speed is that of
the steady state: of each worker the words after its first push, by the time since that push. The
slow worker sleeps twice as long as it computes after each batch, so alone it has a third of the
speed. The rest of a worker's time, besides computing, is its exchange.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import describe, prepare
from rich.console import Console

from nmtasync.machine.device import resolve_devices
from nmtasync.run_directory import RunDirectory
from nmtasync.server.messages import Reply
from nmtasync.training.asynchronous import local
from nmtasync.training.asynchronous.worker_process import WorkerSetup, run_worker
from nmtasync.training.reporting.reporter import Reporter
from nmtasync.training.synchronous import rounds
from nmtasync.training.synchronous.rank_process import RankSetup, run_rank
from nmtasync.training.train import train
from nmtasync.worker import gradient
from nmtasync.worker.window import WindowFigures

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


@dataclass(frozen=True)
class Case:
    """What is measured: the driver, its devices, whether workers overlap, whether one is slow.

    With the driver "ray", also the address of the cluster; further settings go over all others.
    """

    driver: str
    devices: list[str]
    overlap: bool = False
    slow: bool = False
    ray_address: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def cases_of(devices: list[str]) -> dict[str, Case]:
    """One worker, and two and four as far as there are devices."""
    cases = {
        "1 worker": Case("local", devices[:1]),
        "1 worker, overlap": Case("local", devices[:1], overlap=True),
    }
    for number in (2, 4):
        chosen = devices[:number]
        if len(chosen) < number:
            break
        gpus = [device for device in chosen if device != "cpu"]
        distinct = len(set(gpus)) == len(gpus)  # or they can't be synchronous
        cases[f"{number} asynchronous"] = Case("local", chosen)
        cases[f"{number} asynchronous, overlap"] = Case("local", chosen, overlap=True)
        if distinct:
            cases[f"{number} synchronous"] = Case("synchronous", chosen)
        cases[f"{number} asynchronous, one slow"] = Case("local", chosen, slow=True)
        if distinct:
            cases[f"{number} synchronous, one slow"] = Case("synchronous", chosen, slow=True)
    return cases


def slowed(add_gradient: Callable[..., Any]) -> Callable[..., Any]:
    """Let a gradient take three times as long, the processor being idle for two thirds of it."""

    def compute(*arguments: Any) -> Any:
        begin = time.perf_counter()
        figures = add_gradient(*arguments)
        device = next(arguments[0].parameters()).device
        torch.get_device_module(device).synchronize(device)
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
        self.pushes: dict[int, list[tuple[float, WindowFigures]]] = {}
        self.begin: float | None = None

    def note(self, window: WindowFigures, now: float) -> None:
        """Note a push at a moment of training; the clock begins when all have pushed once."""
        self.pushes.setdefault(window.worker, []).append((now, window))
        if self.begin is None and len(self.pushes) == self.num_pushing:
            self.begin = now
        often = min(len(pushes) for pushes in self.pushes.values()) >= 4
        if often and self.begin and now - self.begin > self.seconds:
            os.kill(os.getpid(), signal.SIGTERM)
            self.seconds = float("inf")

    def speed(self) -> float:
        """Target words a second of all workers."""
        return sum(
            sum(window.target_words for _, window in pushes[1:]) / (pushes[-1][0] - pushes[0][0])
            for pushes in self.pushes.values()
        )

    def costs(self) -> tuple[float, float]:
        """Seconds of computing for each target word, and for each window those outside it."""
        windows = [window for pushes in self.pushes.values() for _, window in pushes[1:]]
        seconds = sum(pushes[-1][0] - pushes[0][0] for pushes in self.pushes.values())
        computing = sum(window.compute_seconds for window in windows)
        words = sum(window.target_words for window in windows)
        return computing / words, (seconds - computing) / len(windows)

    def share_outside_computing(self) -> float:
        """The share of the fast worker's time in which it did not compute."""
        pushes = self.pushes[0]
        computing = sum(window.compute_seconds for _, window in pushes[1:])
        return 1.0 - computing / (pushes[-1][0] - pushes[0][0])


def run_case(run: RunDirectory, case: Case, seconds: float) -> Recorder:
    """Train in one setting from the beginning."""
    number = 1 if case.driver == "synchronous" else len(case.devices)
    recorder = Recorder(case.settings.get("asynchronous.num_workers") or number, seconds)
    original = Reporter.pushed

    def pushed(
        self: Reporter,
        window: WindowFigures,
        reply: Reply,
        exchange_seconds: float,
        clocks: dict[str, Any],
    ) -> None:
        recorder.note(window, clocks["time_seconds"])
        original(self, window, reply, exchange_seconds, clocks)

    settings = {
        **SETTINGS,
        "asynchronous.driver": case.driver,
        "asynchronous.devices": ",".join(case.devices),
        "asynchronous.overlap": case.overlap,
        "asynchronous.ray_address": case.ray_address,
        **case.settings,
    }
    Reporter.pushed = pushed  # type: ignore[method-assign]
    local.run_worker = run_slow_worker if case.slow else run_worker
    rounds.run_rank = run_slow_rank if case.slow else run_rank
    with Path(os.devnull).open("w") as nowhere:
        train(run, settings, resume=False, console=Console(file=nowhere))
    Reporter.pushed = original  # type: ignore[method-assign]
    return recorder


def main() -> None:
    """Measure all settings in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    parser.add_argument("--devices", default="cpu,cpu", help="one for each worker")
    arguments = parser.parse_args()
    cases = cases_of(resolve_devices(arguments.devices))
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    outside: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as directory:
        if arguments.run:
            run = RunDirectory(shutil.copytree(arguments.run, Path(directory) / "run"))
        else:
            run = prepare(Path(directory))
        for _ in range(arguments.repeats):
            for name, case in cases.items():
                recorder = run_case(run, case, arguments.seconds)
                speeds[name].append(recorder.speed())
                outside[name].append(recorder.share_outside_computing())
                print(f"  {name:26} {speeds[name][-1]:8,.0f} target words/s", flush=True)
    one = speeds["1 worker"]
    print(f"\n{'':26} {'target words/s':26} {'times 1 worker':22} not computing (worker 0)")
    for name, case in cases.items():
        ratios = [speed / alone for speed, alone in zip(speeds[name], one, strict=True)]
        shares = describe([100 * share for share in outside[name]], "{:.1f}%")
        print(f"{name:26} {describe(speeds[name]):26} {describe(ratios, '{:.2f}'):22} {shares}")
        if case.slow and case.driver == "local":
            alone = len(case.devices) - 1 + 1 / (1 + SLEEP_PER_COMPUTE)
            of_sum = [100 * ratio / alone for ratio in ratios]
            print(f"{'':26} of the sum of all alone: {describe(of_sum)} %")


if __name__ == "__main__":
    main()
