"""Ray, which starts processes on the nodes of a cluster and moves bytes between them.

Without an address a cluster of this machine alone is started, for as long as training lasts; its
processes listen on the loopback interface only, and its files go when it ends.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nmtasync.config.schema import AsynchronousConfig
from nmtasync.errors import UserError
from nmtasync.machine.cores import available_cores
from nmtasync.machine.environment import changed_environment
from nmtasync.machine.import_path import own_import_path
from nmtasync.machine.signals import own_handlers_kept
from nmtasync.training.cluster.room import NodeRoom, WorkersWanted, choose_workers

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what it would warn of does not concern us
    "RAY_worker_niceness": "0",  # or all else on this machine would go before the workers
}
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What lets Ray call this machine 127.0.0.1 on those systems does so on Linux, too."""

_ANSWER_SECONDS = 10.0
"""So long a head may take to answer at all; Ray itself would wait for minutes."""

_KEPT_SECONDS = 60.0
"""So long a result that has come may take to be read."""


def load_ray() -> Any:
    """Import Ray.

    Raises:
        UserError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "is 'ray', which needs Ray, and that is not installed",
            where="asynchronous.driver",
            remedy='pip install "nmtasync[cluster]"',
        ) from None
    return ray


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: The library.
        wanted: The workers of the run.
        node: The id of this process's node.
    """

    ray: Any
    wanted: WorkersWanted
    node: str

    def start(self, actor: type, *arguments: object) -> Any:
        """Have an actor started where there is room for a worker, now or later; return it."""
        options = {**self.wanted.resources, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        return self.ray.remote(actor).options(**options).remote(*arguments)

    def end(self, actor: Any) -> None:
        """End an actor at once."""
        with contextlib.suppress(Exception):  # it has ended, or is out of reach
            self.ray.kill(actor, no_restart=True)

    def wait(self, results: Sequence[Any], seconds: float) -> list[Any]:
        """Wait until one of the results has come to this node; return all that have."""
        ready, _ = self.ray.wait(list(results), num_returns=1, timeout=seconds)
        if ready and len(results) > 1:
            ready, _ = self.ray.wait(list(results), num_returns=len(results), timeout=0)
        return list(ready)

    def get(self, results: Sequence[Any]) -> list[Any]:
        """Return results that have come.

        Raises:
            Exception: One of Ray's: who should have computed it has ended, or it is lost.
        """
        return list(self.ray.get(list(results), timeout=_KEPT_SECONDS))

    def has_node(self, node: str) -> bool:
        """Whether a node, by its id, belongs to the cluster, as far as that can be reached."""
        with contextlib.suppress(Exception):
            return any(each["NodeID"] == node and each["Alive"] for each in self.ray.nodes())
        return False

    def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function where a worker would run, and return its result."""
        task = self.ray.remote(function).options(**self.wanted.resources)
        return self.ray.get(task.remote(*arguments))


@contextlib.contextmanager
def connected(options: AsynchronousConfig) -> Iterator[Cluster]:
    """Connect to the cluster that the user names, or start one on this machine.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or it has no room.
    """
    variables = _QUIET if options.ray_address else _QUIET | _ON_LOOPBACK
    with contextlib.ExitStack() as stack:
        with changed_environment(variables), own_handlers_kept():
            ray = load_ray()
            if options.ray_address:
                stack.callback(ray.shutdown)
                _connect(ray, options.ray_address)
            else:
                folder = tempfile.TemporaryDirectory(
                    prefix="nmtasync-ray-", dir="/tmp", ignore_cleanup_errors=True
                )
                stack.enter_context(folder)
                stack.callback(ray.shutdown)
                _start(ray, folder.name, options)
        _keep_quiet(ray)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        rooms = [NodeRoom(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
        yield Cluster(ray, choose_workers(rooms, options), ray.get_runtime_context().get_node_id())


def _keep_quiet(ray: Any) -> None:
    """Let Ray not print what happens to its processes: who needs to know is told by us.

    It has an option against what workers print, and none against this.
    """
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *arguments, **options: None


def _start(ray: Any, folder: str, options: AsynchronousConfig) -> None:
    """Start a cluster that has room for all workers, though they may have to share cores."""
    named = len(options.devices.split(","))
    asked = options.num_workers or named
    if options.hosts == "synchronous":
        asked = (options.num_workers or 1) * named
    with own_import_path():
        ray.init(
            address="local",
            num_cpus=max(available_cores(), asked * (options.threads or 1)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=folder,
        )


def _connect(ray: Any, address: str) -> None:
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"there is no cluster that can be used at {address}: {reason}",
            where="asynchronous.ray_address",
            remedy="start Ray on this machine, too (ray start --address=HOST:PORT), and set "
            "RAY_AUTH_MODE=token here as well where the cluster asks for a token",
        ) from None
