"""Target words a second of one host of two devices on a Ray cluster, and of two synchronous ranks.

The host is an emulated node of this machine with two CPUs (`asynchronous.hosts` = synchronous); the
ranks are those of `--driver synchronous`. Both compute the same batches for each update. They
take turns, several times over; a speed is that of the steady state, as in `workers.py`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from common import prepare
from hosts import CPUS, compare, emulated_cluster
from workers import Case

from nmtasync.run_directory import RunDirectory

RANKS, HOST = "two synchronous ranks", "a host of two devices"


def main() -> None:
    """Measure both in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    arguments = parser.parse_args()
    os.environ.update({"RAY_worker_niceness": "0"})  # or all else would go before the workers
    with tempfile.TemporaryDirectory() as directory, emulated_cluster(2) as address:
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
        compare(run, cases, arguments.seconds, arguments.repeats)


if __name__ == "__main__":
    main()
