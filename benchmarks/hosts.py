"""Target words a second of two workers: on this machine, and on two nodes of a Ray cluster.

The nodes are emulated: both are on this machine, each with a process of Ray's that has an object
store of its own, so that what travels is copied from one to the other through a socket. Both
settings take turns, several times over; a speed is that of the steady state, as in `workers.py`.
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

HERE, CLUSTER = "local", "two nodes"


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """Start a cluster of two nodes with a CPU each; give its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {HERE: [], CLUSTER: []}
    outside: dict[str, list[float]] = {HERE: [], CLUSTER: []}
    with tempfile.TemporaryDirectory() as directory, two_nodes() as address:
        if arguments.run:
            run = RunDirectory(shutil.copytree(arguments.run, Path(directory) / "run"))
        else:
            run = prepare(Path(directory))
        cpus = ["cpu", "cpu"]
        cases = {HERE: Case("local", cpus), CLUSTER: Case("ray", cpus, ray_address=address)}
        for _ in range(arguments.repeats):
            for name, case in cases.items():
                recorder = run_case(run, case, arguments.seconds)
                speeds[name].append(recorder.speed())
                outside[name].append(recorder.share_outside_computing())
                print(f"  {name:12} {speeds[name][-1]:8,.0f} target words/s", flush=True)
    print(f"\n{'':12} {'target words/s':26} {'times local':22} not computing (worker 0)")
    for name in cases:
        ratios = [speed / here for speed, here in zip(speeds[name], speeds[HERE], strict=True)]
        shares = describe([100 * share for share in outside[name]], "{:.1f}%")
        print(f"{name:12} {describe(speeds[name]):26} {describe(ratios, '{:.2f}'):22} {shares}")


if __name__ == "__main__":
    main()
