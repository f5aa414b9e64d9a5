"""A cluster of emulated nodes on this machine: each is a process of Ray's that starts workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from _pytest.monkeypatch import MonkeyPatch

from nmtasync.run_directory import RunDirectory
from nmtasync.training.cluster.driver import ClusterWorker, RayDriver
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.training.session import Session
from tests.support.runs import train_toy


class EmulatedCluster:
    """Two nodes with a CPU each, or several, and more nodes if asked for."""

    def __init__(self, nodes: Any, num_cpus: int) -> None:
        self._nodes = nodes
        self._num_cpus = num_cpus
        self.address: str = nodes.address

    def add(self) -> Any:
        """Let one more such node join."""
        return self._nodes.add_node(num_cpus=self._num_cpus)

    def remove(self, node: Any) -> None:
        """Take a node away, without a word to anyone."""
        self._nodes.remove_node(node, allow_graceful=False)

    def train(
        self, run: RunDirectory, *, resume: bool = True, **changes: object
    ) -> TrainingSummary:
        """Train the toy with a worker for each of the first two nodes, unless told otherwise."""
        options: dict[str, object] = {
            "asynchronous__driver": "ray",
            "asynchronous__ray_address": self.address,
            "asynchronous__devices": "cpu,cpu",
            "training__validate_every": 10**6,
        }
        return train_toy(run, resume=resume, **{**options, **changes})


@contextlib.contextmanager
def emulated_cluster(num_cpus: int = 1) -> Iterator[EmulatedCluster]:
    """Start the cluster; it listens on the loopback interface only.

    Where Ray is not installed, the test is skipped.
    """
    with MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        utils = pytest.importorskip("ray.cluster_utils")
        head = {"num_cpus": num_cpus, "include_dashboard": False}
        nodes = utils.Cluster(initialize_head=True, connect=False, head_node_args=head)
        nodes.add_node(num_cpus=num_cpus)
        try:
            yield EmulatedCluster(nodes, num_cpus)
        finally:
            nodes.shutdown()


@contextlib.contextmanager
def at_each_push(then: Callable[[Session, int], None]) -> Iterator[None]:
    """Call a function after each push that the server takes, with the worker's number."""
    exchange = Session.exchange

    def noted(self: Session, computed: Any, payload: Any, landing: Any, *rest: Any) -> Any:
        reply = exchange(self, computed, payload, landing, *rest)
        then(self, computed.push.worker)
        return reply

    with MonkeyPatch.context() as patch:
        patch.setattr(Session, "exchange", noted)
        yield


@dataclass(frozen=True)
class SeenWorker:
    """Where a worker is."""

    worker: ClusterWorker

    @property
    def pid(self) -> int | None:
        return self.worker.placed.pid if self.worker.placed else None

    def is_on(self, node: Any) -> bool:
        return self.worker.placed is not None and self.worker.placed.node == node.node_id


@contextlib.contextmanager
def workers_seen() -> Iterator[dict[int, SeenWorker]]:
    """Give the workers of the driver that is made meanwhile."""
    seen: dict[int, SeenWorker] = {}
    start = RayDriver.start

    def started(self: RayDriver, worker: ClusterWorker) -> None:
        seen[worker.index] = SeenWorker(worker)
        start(self, worker)

    with MonkeyPatch.context() as patch:
        patch.setattr(RayDriver, "start", started)
        yield seen
