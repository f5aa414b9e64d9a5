"""A host of several devices without a cluster: a worker here, and a process for each other one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nmtasync.config.schema import Config
from nmtasync.data.shards import ParallelShards
from nmtasync.machine.processes import end_all
from nmtasync.models.build import ModelSpec
from nmtasync.run_directory import RunDirectory
from nmtasync.server.transport import Slot
from nmtasync.training.cluster.members import Members
from nmtasync.training.driver import RunParts
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import Worker
from tests.support.one_worker import VOCABULARY, OneWorker, toy_model


@contextlib.contextmanager
def host_of(
    run: RunDirectory, config: Config, num_devices: int, device: str = "cpu"
) -> Iterator[Worker]:
    """Give the worker, which has the parameters that `OneWorker` begins with."""
    spec = ModelSpec(config.model, VOCABULARY, VOCABULARY)
    size = OneWorker(run, config).flat.size
    slot = Slot.allocate(size, device)
    flat = slot.replica(toy_model(config, device))
    first = flat.parameters.clone()
    parts = RunParts(run, config, spec, flat.layout, [device], 1, (num_devices,))
    others = Members(parts, [slot], num_devices)
    try:
        flat.parameters.copy_(first)
        place = WorkerPlace(0, num_devices=num_devices, others=others)
        worker = Worker(place, flat, ParallelShards.open(run.data / "train"), config)
        worker.versions = (0,)
        yield worker
    finally:
        end_all(member.child for member in others.members)
