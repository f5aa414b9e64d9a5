"""The process that saves and validates, so that the workers go on meanwhile."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from nmtasync.checkpoints import store
from nmtasync.checkpoints.store import Snapshot
from nmtasync.config.schema import Config
from nmtasync.machine.device import allow_tf32
from nmtasync.machine.processes import Failure, end_with_parent
from nmtasync.machine.signals import leave_signals_to_main
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from nmtasync.training.validation.validator import Validator


@dataclass(frozen=True)
class ValidatorSetup:
    """What the process needs to know at its start.

    Attributes:
        device: Where it translates.
        run: Where it writes.
        config: The experiment.
        vocabulary_sizes: Of source and target.
        vectors: [P] by name, in shared memory: the snapshot is copied here by the main process.
    """

    device: str
    run: RunDirectory
    config: Config
    vocabulary_sizes: tuple[int, int]
    vectors: dict[str, Tensor]


@dataclass(frozen=True)
class Request:
    """Save what the shared vectors hold, and validate it if its state says so.

    Attributes:
        state: The snapshot's state.
        threads: How many CPU threads to use.
    """

    state: dict[str, Any]
    threads: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint has been written; the vectors may be overwritten unless it is validated."""

    updates: int


def run_validator(setup: ValidatorSetup, connection: Connection) -> None:
    """Serve requests until the main process closes the connection.

    Args:
        setup: Where and what.
        connection: Carries `Request` from the main process; `Saved`, then `Validation` where it
            was asked for, or `Failure`, to it.
    """
    leave_signals_to_main()
    end_with_parent()
    try:
        allow_tf32(setup.device, setup.config.training.tf32)
        model = build_model(setup.config.model, *setup.vocabulary_sizes).to(setup.device)
        flat = FlatModel(model)
        validator = Validator(setup.run, model, setup.config, setup.device)
        while True:
            request: Request = connection.recv()
            torch.set_num_threads(request.threads)
            snapshot = Snapshot(setup.vectors, request.state)
            store.save(setup.run, snapshot, flat, setup.config)
            connection.send(Saved(snapshot.updates))
            if request.state["to_validate"]:
                flat.parameters.copy_(snapshot.scored)
                connection.send(validator.validate(snapshot))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        connection.send(Failure(traceback.format_exc()))
