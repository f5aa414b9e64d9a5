"""Target words a second of two workers: on this machine, and on two nodes of a Ray cluster.

The nodes are emulated: both are on this machine, each with a process of Ray's that has an object
store of its own, so that what travels is copied from one to the other through a socket. Both
settings take turns, several times over; a speed is that of the steady state, as in `workers.py`.

With `--bandwidths 2e8 5e7`, both nodes behind a network interface of the server's host that is made
up (`throttled.py`), without a limit and with each of these; and what the simulator predicts from
the costs of the run without one. No gradient is computed in simulations: times do not depend on it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from common import describe, prepare
from hosts_simulated import no_gradient
from throttled import ThrottledDriver
from workers import Case, Recorder, run_case

from nmtasync.run_directory import RunDirectory
from nmtasync.training import assembly
from nmtasync.worker import gradient

HERE, CLUSTER, OVERLAPPED = "local", "two nodes", "two nodes, bf16, overlap"
CPUS = ["cpu", "cpu"]
UNLIMITED = float("inf")


@contextlib.contextmanager
def emulated_cluster(*num_cpus: int) -> Iterator[str]:
    """Start a cluster on this machine, a node for each number of CPUs; give its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": num_cpus[0], "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        for number in num_cpus[1:]:
            cluster.add_node(num_cpus=number)
        yield cluster.address
    finally:
        cluster.shutdown()


def node_cases(address: str) -> dict[str, Case]:
    """Two local workers, and two nodes without and with what saves bytes and waiting."""
    fp32 = {"training.precision": "fp32"}
    halved = {**fp32, "asynchronous.exchange_precision": "bf16"}
    return {
        HERE: Case("local", CPUS, settings=fp32),
        CLUSTER: Case("ray", CPUS, ray_address=address, settings=fp32),
        OVERLAPPED: Case("ray", CPUS, overlap=True, ray_address=address, settings=halved),
    }


def compare(run: RunDirectory, cases: dict[str, Case], seconds: float, repeats: int) -> None:
    """Measure all cases in turn, and print the table of ratios to the first."""
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    outside: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            recorder = run_case(run, case, seconds)
            speeds[name].append(recorder.speed())
            outside[name].append(recorder.share_outside_computing())
            print(f"  {name:26} {speeds[name][-1]:8,.0f} target words/s", flush=True)
    first = next(iter(cases))
    print(f"\n{'':26} {'target words/s':26} {'times ' + first:28} not computing (worker 0)")
    for name in cases:
        ratios = [speed / other for speed, other in zip(speeds[name], speeds[first], strict=True)]
        shares = describe([100 * share for share in outside[name]], "{:.1f}%")
        print(f"{name:26} {describe(speeds[name]):26} {describe(ratios, '{:.2f}'):28} {shares}")


def throttled(run: RunDirectory, address: str, bandwidth: float, seconds: float) -> Recorder:
    """Train on both nodes behind an interface of so many bytes a second."""
    original = assembly.RayDriver
    assembly.RayDriver = partial(ThrottledDriver, bandwidth)
    settings = {"training.precision": "fp32"}
    recorder = run_case(run, Case("ray", CPUS, ray_address=address, settings=settings), seconds)
    assembly.RayDriver = original
    return recorder


def predict(
    run: RunDirectory, per_word: float, outside: float, bandwidth: float, seconds: float
) -> float:
    """Simulate the same; return target words a second.

    The server is alone on its host: worker 0, beside it, is dead from the beginning.

    Args:
        run: The data.
        per_word: Seconds of computing for a target word.
        outside: What a window takes besides without throttle: latency, half of it each way.
        bandwidth: In bytes a second.
        seconds: For how long, in virtual time.
    """
    simulation = {
        "speeds": "1,1,1",
        "hosts": "1,1,1",
        "failures": "0@0",
        "seconds_per_batch": 0.0,
        "seconds_per_target_word": per_word,
        "network_latency_seconds": outside / 2,
        "network_bytes_per_second": None if bandwidth == UNLIMITED else bandwidth,
    }
    settings = {f"simulation.{name}": value for name, value in simulation.items()}
    settings["asynchronous.devices"] = "cpu"
    original, gradient.add_gradient = gradient.add_gradient, no_gradient
    recorder = run_case(run, Case("simulated", CPUS, settings=settings), seconds)
    gradient.add_gradient = original
    return recorder.speed()


def measure_throttled(
    run: RunDirectory, address: str, bandwidths: list[float], seconds: float, repeats: int
) -> dict[float, list[Recorder]]:
    """Measure behind each bandwidth in turn."""
    recorders: dict[float, list[Recorder]] = {bandwidth: [] for bandwidth in bandwidths}
    for _ in range(repeats):
        for bandwidth in bandwidths:
            recorder = throttled(run, address, bandwidth, seconds)
            recorders[bandwidth].append(recorder)
            per_word, outside = recorder.costs()
            print(
                f"  {bandwidth:8.3g} bytes/s {recorder.speed():8,.0f} target words/s, computing "
                f"{1000 * per_word:.3f} ms a word, {outside:.3f} s a window besides; load "
                f"{os.getloadavg()[0]:.1f}",
                flush=True,
            )
    return recorders


def check_prediction(
    run: RunDirectory, address: str, bandwidths: list[float], seconds: float, repeats: int
) -> None:
    """Measure behind each bandwidth and without a limit; print that, and what is predicted.

    The prediction takes all costs from the run without a limit in the same repeat. A second one
    takes computing from the run that it predicts, so that it tells of the network alone.
    """
    every = [UNLIMITED, *bandwidths]
    recorders = measure_throttled(run, address, every, seconds, repeats)
    print(f"\n{'bytes/s':>8}  {'measured, words/s':26} {'predicted':26} {'ratio':22} own computing")
    for bandwidth in every:
        measured, predicted, own = [], [], []
        for free, real in zip(recorders[UNLIMITED], recorders[bandwidth], strict=True):
            (per_word, outside), (own_per_word, _) = free.costs(), real.costs()
            measured.append(real.speed())
            predicted.append(predict(run, per_word, outside, bandwidth, seconds))
            own.append(predict(run, own_per_word, outside, bandwidth, seconds))
        ratios = (
            describe([real / told for real, told in zip(measured, told_of, strict=True)], "{:.2f}")
            for told_of in (predicted, own)
        )
        columns = describe(measured), describe(predicted), *ratios
        print(f"{bandwidth:8.3g}  {columns[0]:26} {columns[1]:26} {columns[2]:22} {columns[3]}")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    parser.add_argument(
        "--bandwidths", type=float, nargs="+", help="of the server's host, in bytes a second"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, emulated_cluster(1, 1) as address:
        if arguments.run:
            run = RunDirectory(shutil.copytree(arguments.run, Path(directory) / "run"))
        else:
            run = prepare(Path(directory))
        parts = arguments.seconds, arguments.repeats
        if arguments.bandwidths:
            check_prediction(run, address, arguments.bandwidths, *parts)
        else:
            compare(run, node_cases(address), *parts)


if __name__ == "__main__":
    main()
