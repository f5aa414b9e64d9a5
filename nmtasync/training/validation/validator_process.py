"""The process that saves and validates, so that the workers go on meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from nmtasync.checkpoints import store
from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import Snapshot
from nmtasync.errors import NmtasyncError
from nmtasync.machine.device import allow_tf32
from nmtasync.machine.processes import serving
from nmtasync.optim.flat import FlatModel
from nmtasync.training.driver import RunParts
from nmtasync.training.validation.validator import Validator

PULSE_SECONDS = 1.0


@dataclass(frozen=True)
class ValidatorSetup:
    """What the process needs to know at its start.

    Attributes:
        parts: Of the run; it translates on the first worker's device.
        vectors: [P] by name, in shared memory: the snapshot is copied here by the main process.
    """

    parts: RunParts
    vectors: dict[str, Tensor]


@dataclass(frozen=True)
class Request:
    """Save what the shared vectors hold, and validate it if its state says so.

    Attributes:
        state: The snapshot's state.
        threads: How many CPU threads to use.
        needed: As of `store.save`.
    """

    state: TrainingState
    threads: int
    needed: tuple[int, ...]


@dataclass(frozen=True)
class Saved:
    """A checkpoint has been written; the vectors may be overwritten unless it is validated."""

    updates: int


@dataclass(frozen=True)
class SaveFailed:
    """No checkpoint could be written; training may go on.

    Attributes:
        cause: In one line.
    """

    cause: str


@dataclass(frozen=True)
class Alive:
    """The validation is going on."""


@dataclass(frozen=True)
class Told:
    """What the user shall be told.

    Attributes:
        text: In one line.
    """

    text: str


def run_validator(setup: ValidatorSetup, connection: Connection) -> None:
    """Serve requests until the main process closes the connection.

    Args:
        setup: Where and what.
        connection: Carries `Request` from the main process; `Saved` or `SaveFailed`, then
            `Validation` where it was asked for, with `Alive` before it, `Told`, or `Failure`, to
            it.
    """
    with serving(connection):
        parts, device = setup.parts, setup.parts.devices[0]
        if not torch.cuda.is_available():  # the workers' GPUs may be those of other hosts
            device = "cpu"
        allow_tf32(device, parts.config.training.tf32)
        model = parts.spec.build().to(device)
        torch.set_num_threads(1)

        def tell(text: str) -> None:
            connection.send(Told(text))

        validator = Validator(parts.run, model, parts.config, device, tell)
        flat = FlatModel(model)
        validator.rehearse()
        while True:
            request: Request = connection.recv()
            torch.set_num_threads(request.threads)
            snapshot = Snapshot(setup.vectors, request.state)
            try:
                store.save(parts.run, snapshot, parts.layout, request.needed)
            except NmtasyncError as error:
                connection.send(SaveFailed(str(error)))
                continue
            connection.send(Saved(request.state.updates))
            if request.state.to_validate:
                flat.parameters.copy_(snapshot.scored)
                alive = _Pulse(connection)
                connection.send(validator.validate(snapshot, alive))


class _Pulse:
    """Says now and then that the validation is going on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= PULSE_SECONDS:
            self._last = time.monotonic()
            self._connection.send(Alive())
