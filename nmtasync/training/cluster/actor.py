"""The process of one worker on a cluster: it computes what the main process hands it."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from multiprocessing import util

import nmtasync
from nmtasync.errors import NmtasyncError
from nmtasync.machine.signals import leave_signals_to_main
from nmtasync.server.transport import Slot
from nmtasync.server.wire import Wire
from nmtasync.training.asynchronous.worker_process import (
    Ready,
    Task,
    WorkerSetup,
    build_worker,
    compute,
)
from nmtasync.training.cluster.corpus import RunSource, run_seen_here
from nmtasync.training.cluster.engine import load_ray
from nmtasync.training.cluster.members import Members
from nmtasync.training.cluster.payload import Payload, pack, unpack
from nmtasync.worker.window import ComputedWindow


@dataclass(frozen=True)
class Placed:
    """A worker has been given a place.

    Attributes:
        node: The id of its node.
        address: That of the node.
        pid: Its process there.
    """

    node: str
    address: str
    pid: int

    @property
    def name(self) -> str:
        """The node, for people: nodes on one host differ in their id."""
        return f"{self.address} ({self.node[:8]})"


class WorkerActor:
    """A worker, as the main process calls it.

    Args:
        setup: Who and what; it has no slots yet.
        source: Where RUN is.
        version: Of nmtasync, in the main process.
    """

    def __init__(self, setup: WorkerSetup, source: RunSource, version: str) -> None:
        leave_signals_to_main()
        self.setup, self.source, self.version = setup, source, version
        self.wire = Wire(setup.parts.config.asynchronous.exchange_precision)
        self.idle_since = 0.0

    def place(self) -> Placed:
        """Tell where this worker is."""
        ray = load_ray()
        node = ray.get_runtime_context().get_node_id()
        return Placed(node, ray.util.get_node_ip_address(), os.getpid())

    def open(self) -> Ready:
        """Open the corpus and build the network.

        Raises:
            NmtasyncError: The corpus can't be opened, or this node has another nmtasync.
        """
        if nmtasync.__version__ != self.version:
            raise NmtasyncError(
                f"there is nmtasync {nmtasync.__version__} here, and the main process has "
                f"{self.version}"
            )
        index, members = self.setup.index, None
        parts = replace(self.setup.parts, run=run_seen_here(self.source))
        device, size = parts.devices[index], parts.layout.size
        shared = parts.num_devices[index] > 1
        room = Slot.allocate if shared else Slot.private
        slots = [room(size, device) for _ in range(parts.config.asynchronous.num_slots)]
        self.setup = replace(self.setup, parts=parts, slots=slots)
        if shared:
            members = Members(parts, slots, parts.num_devices[index])
            # all have been started, and who is killed can't remove the folder of the sockets
            shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
        self.worker = build_worker(self.setup, None, members)
        self.idle_since = time.perf_counter()
        return Ready()

    def compute(self, task: Task, parameters: Payload) -> tuple[ComputedWindow, Payload]:
        """Compute a window on the parameters that it is handed."""
        slot = self.setup.slots[task.slot]
        unpack(self.wire, parameters, slot.landing)
        computed = compute(self.worker, task, slot, self.idle_since)
        payload = pack(self.wire, slot.mailbox, computed.push.num_values)
        self.idle_since = time.perf_counter()
        return computed, payload
