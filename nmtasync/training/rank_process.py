"""The process of one rank of synchronous training: its windows' gradients and its own shard.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.data.batches import Batch, collate
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from nmtasync.server.collectives import (
    Collective,
    GroupCollective,
    SharedMemoryCollective,
    rank_bounds,
)
from nmtasync.server.owned_shard import OwnedShard
from nmtasync.training.cursor import AssignedBatch
from nmtasync.training.gradient import BatchFigures, add_gradient, batch_seed, clip_factor
from nmtasync.training.signals import leave_signals_to_main
from nmtasync.training.worker_process import Failure

_PATIENCE = datetime.timedelta(days=7)
"""How long a rank waits for the others. The main process sees who has died; a slow rank, or one
that was paused, is no reason to end."""


@dataclass(frozen=True)
class RankSetup:
    """What a rank needs to know at its start.

    Attributes:
        index: Which rank it is.
        devices: Where each rank computes.
        threads: How many CPU threads it may use.
        run: Whose data it reads.
        config: The experiment.
        vocabulary_sizes: Of source and target.
        vectors: [P] by name, in shared memory: the state that the ranks update.
        marks: See `OwnedShard`.
        gradients: [P] of each rank, in shared memory; none where ranks keep their vectors, and
            their part of the state, to themselves.
        rendezvous: A file by which the ranks find each other; it does not exist before.
    """

    index: int
    devices: list[str]
    threads: int
    run: RunDirectory
    config: Config
    vocabulary_sizes: tuple[int, int]
    vectors: dict[str, Tensor]
    marks: Tensor
    gradients: list[Tensor]
    rendezvous: str


@dataclass(frozen=True)
class Round:
    """What a rank does for the next update.

    Attributes:
        version: The updates made so far.
        window: The rank's batches; none where the epochs end.
        upcoming: Those of the round after it, to prepare.
    """

    version: int
    window: list[AssignedBatch]
    upcoming: list[AssignedBatch]


@dataclass(frozen=True)
class RoundDone:
    """What has come of a round. All but the last figure concern all ranks, and each says them.

    Attributes:
        applied: Whether there was an update: not if the gradient was not finite.
        num_batches: Mini-batches behind it.
        target_words: Target words behind it.
        source_words: Source words behind it.
        cross_entropy: Sum over the target words, in nats.
        gradient_norm: Global norm of the sum per target word, before clipping.
        learning_rate: Of the update.
        compute_seconds: Time that this rank computed its gradient.
    """

    applied: bool
    num_batches: int
    target_words: int
    source_words: int
    cross_entropy: float
    gradient_norm: float
    learning_rate: float
    compute_seconds: float


@dataclass(frozen=True)
class Publish:
    """Asks a rank on a GPU for its shard of this version, in shared memory."""

    version: int


@dataclass(frozen=True)
class Published:
    """The answer: it is there."""


@dataclass(frozen=True)
class Stranded:
    """A meeting with the other ranks failed, most likely because one has died.

    Attributes:
        text: The traceback.
    """

    text: str


class _MeetingError(Exception):
    """The ranks could not come together."""


@contextlib.contextmanager
def _meeting() -> Iterator[None]:
    """Tell what fails between the ranks from what fails in this one."""
    try:
        yield
    except RuntimeError as error:
        raise _MeetingError from error


class Rank:
    """Computes its share of each round.

    Args:
        index: Which rank it is.
        flat: Its model, laid out in the collective's vectors.
        collective: The way to the other ranks.
        shard: What it owns.
        corpus: The training corpus.
        config: The experiment.
    """

    def __init__(
        self,
        index: int,
        flat: FlatModel[SequenceToSequence],
        collective: Collective,
        shard: OwnedShard,
        corpus: ParallelShards,
        config: Config,
    ) -> None:
        self.index = index
        self.flat = flat
        self.collective = collective
        self.shard = shard
        self.corpus = corpus
        self.config = config
        self.device = flat.parameters.device
        self._prepared: dict[tuple[int, int], Batch] = {}
        flat.model.train()

    def play(self, task: Round) -> RoundDone:
        """Compute the window's gradient, meet the others, update the own shard."""
        stopwatch = _Stopwatch(self.device)
        self.flat.gradients.zero_()
        figures = [self._add_gradient(assigned) for assigned in task.window]
        stopwatch.stop()
        if task.upcoming:  # the device still computes, or the others do
            self._prepare(task.upcoming[0])
        with _meeting():
            total = self.collective.sum_gradients()
            table = self.collective.gather(self._figures(figures, total))
        # every rank sums the same table in the same order, so all decide alike
        batches, target_words, source_words, cross_entropy, square = table.sum(0).tolist()
        norm = math.sqrt(square) / max(target_words, 1) if square >= 0 else math.nan
        applied = target_words > 0 and math.isfinite(norm)
        rate = 0.0
        if applied:
            factor = clip_factor(norm, self.config.optimizer.clip_norm)
            if factor < 1.0:
                total.mul_(factor)
            rate = self.shard.update(total, int(target_words), task.version)
            with _meeting():
                self.collective.share_parameters()
        return RoundDone(
            applied,
            int(batches),
            int(target_words),
            int(source_words),
            cross_entropy,
            norm,
            rate,
            stopwatch.seconds(),
        )

    def _add_gradient(self, assigned: AssignedBatch) -> BatchFigures:
        training = self.config.training
        batch = self._prepared.pop((assigned.epoch, assigned.index), None)
        if batch is None:
            batch = collate(self.corpus, assigned.sentences).to(self.device)
        seed = batch_seed(training.seed, assigned.epoch, assigned.index)
        return add_gradient(self.flat, batch, training.label_smoothing, seed)

    def _prepare(self, assigned: AssignedBatch) -> None:
        batch = collate(self.corpus, assigned.sentences).to(self.device)
        self._prepared = {(assigned.epoch, assigned.index): batch}

    def _figures(self, batches: list[BatchFigures], total: Tensor) -> Tensor:
        """Batches, target words, source words, cross-entropy, and the shard's squared norm: [5]."""
        counts = [
            len(batches),
            sum(b.target_words for b in batches),
            sum(b.source_words for b in batches),
        ]
        figures = torch.zeros(5, dtype=torch.float64)
        figures[:3] = torch.tensor(counts, dtype=torch.float64)
        figures = figures.to(self.device, non_blocking=True)
        if batches:
            figures[3] = torch.stack([b.cross_entropy for b in batches]).double().sum()
        figures[4] = total.norm().double().square()
        return figures


class _Stopwatch:
    """Measures computation; on a GPU that of the device, which the host does not wait for."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._events = [_event(), _event()]
            self._events[0].record()
        self._start = self._end = time.perf_counter()

    def stop(self) -> None:
        """End what is measured."""
        if self._events:
            self._events[1].record()
        self._end = time.perf_counter()

    def seconds(self) -> float:
        """Say how long it took; on a GPU, once the device has come that far."""
        if self._events:
            start, end = self._events
            return float(start.elapsed_time(end)) / 1000
        return self._end - self._start


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def run_rank(setup: RankSetup, connection: Connection) -> None:
    """Serve as a rank until the main process closes the connection.

    Args:
        setup: Who and what.
        connection: Carries `Round` and `Publish` from the main process; `RoundDone`,
            `Published`, `Stranded` and `Failure` to it.
    """
    leave_signals_to_main()
    torch.set_num_threads(setup.threads)
    try:
        try:
            _serve(setup, connection)
        except _MeetingError:
            connection.send(Stranded(traceback.format_exc()))
            connection.recv()  # the main process ends this one
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        connection.send(Failure(traceback.format_exc()))


def _serve(setup: RankSetup, connection: Connection) -> None:
    with _meeting():
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
    device = setup.devices[setup.index]
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = "lo"
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        init_method=f"file://{setup.rendezvous}",
        rank=setup.index,
        world_size=len(setup.devices),
        timeout=_PATIENCE,
    )


def _build(setup: RankSetup) -> Rank:
    device = setup.devices[setup.index]
    num_ranks, parameters = len(setup.devices), setup.vectors["parameters"]
    collective: Collective
    if setup.gradients:
        collective = SharedMemoryCollective(setup.index, setup.gradients, parameters)
    else:
        collective = GroupCollective(setup.index, num_ranks, parameters.numel(), device)
        collective.parameters.copy_(parameters)
    model = build_model(setup.config.model, *setup.vocabulary_sizes).to(device)
    flat = FlatModel(model)
    flat.bind(collective.parameters, collective.gradients)
    bounds = rank_bounds(parameters.numel(), num_ranks)[setup.index]
    shard = OwnedShard(
        setup.index, bounds, setup.vectors, setup.marks, collective.parameters, setup.config
    )
    corpus = ParallelShards.open(setup.run.data / "train")
    return Rank(setup.index, flat, collective, shard, corpus, setup.config)
