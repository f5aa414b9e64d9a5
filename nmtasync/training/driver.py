"""Who runs the workers of a training run: which driver, where, and what all drivers can do.

An allocator whose memory processes can't share (`expandable_segments`, `cudaMallocAsync`) is
refused where workers on GPUs have processes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from nmtasync.config.schema import Config
from nmtasync.errors import UserError
from nmtasync.machine.device import (
    refuse_allocator_without_ipc,
    refuse_repeated_gpus,
    resolve_device,
    resolve_devices,
)
from nmtasync.models.build import ModelSpec
from nmtasync.optim.flat import Layout
from nmtasync.run_directory import RunDirectory


class Driver(Protocol):
    """Runs the workers of one training run and has its state saved and validated."""

    def validate_restored(self) -> None:
        """Validate the resumed checkpoint, which was saved for that, after all."""
        ...

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        ...

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        ...

    def close(self) -> None:
        """End all processes that are still there, whatever has happened."""
        ...


class DriverKind(Enum):
    """The drivers there are."""

    INLINE = "one worker beside the server, in this process"
    LOCAL = "asynchronous workers, each in a process of its own"
    RAY = "asynchronous workers on the nodes of a cluster"
    SYNCHRONOUS = "synchronous ranks, each in a process of its own"
    SIMULATED = "asynchronous workers under a virtual clock, in this process"
    SIMULATED_SYNCHRONOUS = "synchronous workers under a virtual clock, in this process"
    REPLAY = "the recorded workers of an earlier run, in this process"

    @property
    def in_process(self) -> bool:
        """Whether the main process computes the gradients itself."""
        return self not in (DriverKind.LOCAL, DriverKind.RAY, DriverKind.SYNCHRONOUS)

    @property
    def simulated(self) -> bool:
        """Whether time is virtual."""
        return self.in_process and self is not DriverKind.INLINE

    @property
    def synchronous(self) -> bool:
        """Whether each update is made by all workers together."""
        return self in (DriverKind.SYNCHRONOUS, DriverKind.SIMULATED_SYNCHRONOUS)


@dataclass(frozen=True)
class RunParts:
    """What all processes of a run need to know.

    Attributes:
        run: The directory.
        config: The experiment.
        spec: The network.
        layout: Where its parameters lie in the vector.
        devices: Where each worker computes, as its own process calls it; one for all where the
            main process computes.
        threads: CPU threads of each device.
        num_devices: How many devices compute for each worker: more than one for a host of several.
    """

    run: RunDirectory
    config: Config
    spec: ModelSpec
    layout: Layout
    devices: list[str]
    threads: int
    num_devices: tuple[int, ...]


def choose_driver(config: Config) -> tuple[DriverKind, list[str]]:
    """Decide which driver runs the workers of this machine, and on which devices.

    Raises:
        UserError: The devices are not there, or not fit for that driver.
    """
    options, simulation = config.asynchronous, config.simulation
    one = options.driver == "simulated" and options.devices == "auto"
    devices = [resolve_device("auto")] if one else resolve_devices(options.devices)
    match options.driver:
        case "simulated" if simulation.replay is not None:
            kind = DriverKind.REPLAY
        case "simulated" if simulation.synchronous:
            kind = DriverKind.SIMULATED_SYNCHRONOUS
        case "simulated":
            kind = DriverKind.SIMULATED
        case _ if len(devices) == 1 and not options.overlap:
            kind = DriverKind.INLINE
        case "synchronous":
            kind = DriverKind.SYNCHRONOUS
        case _:
            kind = DriverKind.LOCAL
    if kind is DriverKind.LOCAL:
        refuse_allocator_without_ipc(devices)
    elif kind is DriverKind.SYNCHRONOUS:
        refuse_repeated_gpus(devices)
    elif kind.simulated and len(devices) > 1:
        raise UserError(
            f"names {len(devices)} devices, but with asynchronous.driver = simulated everything "
            "is computed on one",
            where="asynchronous.devices",
            remedy="name one; simulation.speeds says how many workers there are",
        )
    return kind, devices
