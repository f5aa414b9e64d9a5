"""Target words a second of one host of two devices on a Ray cluster, and of two synchronous ranks.

The host is an emulated node of this machine with two CPUs (`asynchronous.hosts` = synchronous); the
ranks are those of `--driver synchronous`. Both compute the same batches for each update. They
take turns, several times over; a speed is that of the steady state, as in `workers.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import describe, prepare
from workers import Case, run_case

from nmtasync.run_directory import RunDirectory

RANKS, HOST = "two synchronous ranks", "a host of two devices"
CPUS = ["cpu", "cpu"]


@contextlib.contextmanager
def one_node() -> Iterator[str]:
    """Start a cluster of a node with two CPUs; give its address."""
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure both in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, one_node() as address:
        if arguments.run:
            run = RunDirectory(shutil.copytree(arguments.run, Path(directory) / "run"))
        else:
            run = prepare(Path(directory))
        hosts = {"asynchronous.hosts": "synchronous", "asynchronous.num_workers": 1}
        apart = {"asynchronous.hosts": "asynchronous"}  # RUN remembers what was set before
        cases = {
            RANKS: Case("synchronous", CPUS, settings=dict.fromkeys(hosts) | apart),
            HOST: Case("ray", CPUS, ray_address=address, settings=hosts),
        }
        speeds: dict[str, list[float]] = {name: [] for name in cases}
        outside: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(arguments.repeats):
            for name, case in cases.items():
                recorder = run_case(run, case, arguments.seconds)
                speeds[name].append(recorder.speed())
                outside[name].append(recorder.share_outside_computing())
                print(f"  {name:22} {speeds[name][-1]:8,.0f} target words/s", flush=True)
    for name in cases:
        ratios = [speed / rank for speed, rank in zip(speeds[name], speeds[RANKS], strict=True)]
        shares = describe([100 * share for share in outside[name]], "{:.1f}%")
        print(f"{name:22} {describe(speeds[name]):26} {describe(ratios, '{:.2f}'):22} {shares}")


if __name__ == "__main__":
    main()
