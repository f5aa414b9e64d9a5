"""The process of one rank of synchronous training: how it meets the others and is told what to do.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import datetime
import os
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch import Tensor

from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.machine.device import allow_tf32
from nmtasync.machine.processes import serving
from nmtasync.optim.flat import FlatModel
from nmtasync.training.driver import RunParts
from nmtasync.training.synchronous.collectives import (
    Collective,
    GroupCollective,
    SharedMemoryCollective,
    rank_bounds,
)
from nmtasync.training.synchronous.owned_shard import OwnedShard
from nmtasync.training.synchronous.rank import MeetingError, Rank, Round, meeting

_PATIENCE = datetime.timedelta(days=7)
"""How long a rank waits for the others. The main process sees who has died; a slow rank, or one
that was paused, is no reason to end."""


@dataclass(frozen=True)
class RankSetup:
    """What a rank needs to know at its start.

    Attributes:
        index: Which rank it is.
        parts: Of the run.
        vectors: [P] by name, in shared memory: the state that the ranks update.
        marks: See `OwnedShard`.
        gradients: [P] of each rank, in shared memory; none where ranks keep their vectors, and
            their part of the state, to themselves.
        rendezvous: A file by which the ranks find each other; it does not exist before.
    """

    index: int
    parts: RunParts
    vectors: dict[str, Tensor]
    marks: Tensor
    gradients: list[Tensor]
    rendezvous: str

    @property
    def device(self) -> str:
        """Where the rank computes."""
        return self.parts.devices[self.index]


@dataclass(frozen=True)
class Publish:
    """Asks a rank on a GPU for its shard of this version, in shared memory."""

    version: int


@dataclass(frozen=True)
class Published:
    """Answer to `Publish`."""


@dataclass(frozen=True)
class Stranded:
    """A meeting with the other ranks failed, most likely because one has died.

    Attributes:
        text: The traceback.
    """

    text: str


def run_rank(setup: RankSetup, connection: Connection) -> None:
    """Serve as a rank until the main process closes the connection.

    Args:
        setup: Who and what.
        connection: Carries `Round` and `Publish` from the main process; `RoundDone`,
            `Published`, `Stranded` and `Failure` to it.
    """
    with serving(connection):
        torch.set_num_threads(setup.parts.threads)
        try:
            _serve(setup, connection)
        except MeetingError:
            connection.send(Stranded(traceback.format_exc()))
            connection.recv()  # the main process ends this one


def _serve(setup: RankSetup, connection: Connection) -> None:
    with meeting():
        _meet(setup)
    rank = _build(setup)
    while True:
        task: Round | Publish = connection.recv()
        if isinstance(task, Publish):
            rank.shard.publish(task.version)
            connection.send(Published())
        else:
            connection.send(rank.play(task))


def _meet(setup: RankSetup) -> None:
    """Join the process group, over the loopback interface alone."""
    device = setup.device
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = "lo"
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        init_method=f"file://{setup.rendezvous}",
        rank=setup.index,
        world_size=len(setup.parts.devices),
        timeout=_PATIENCE,
    )


def _build(setup: RankSetup) -> Rank:
    parts, device = setup.parts, setup.device
    allow_tf32(device, parts.config.training.tf32)
    num_ranks, parameters = len(parts.devices), setup.vectors["parameters"]
    collective: Collective
    if setup.gradients:
        collective = SharedMemoryCollective(setup.index, setup.gradients, parameters)
    else:
        collective = GroupCollective(setup.index, num_ranks, parameters.numel(), device)
        collective.parameters.copy_(parameters)
    model = parts.spec.build().to(device)
    flat = FlatModel(model)
    flat.bind(collective.parameters, collective.gradients)
    bounds = rank_bounds(parameters.numel(), num_ranks)[setup.index]
    shard = OwnedShard(
        setup.index, bounds, setup.vectors, setup.marks, collective.parameters, parts.config
    )
    corpus = open_training_corpus(parts.run, parts.config)
    return Rank(setup.index, flat, collective, shard, corpus, parts.config)
