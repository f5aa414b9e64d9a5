"""One rank of synchronous training: its windows' gradients, and its own shard.

A plain object; the process around it is in `rank_process`.

Shapes: P is the length of the parameter vector, N the number of ranks, n the length of a shard.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.data.batches import Batch
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.server.noise_scale import PAIR_EVERY
from nmtasync.training.synchronous.collectives import Collective
from nmtasync.training.synchronous.owned_shard import OwnedShard
from nmtasync.worker.bad_batches import BadBatchFinder
from nmtasync.worker.gradient import BatchFigures, WindowGradient
from nmtasync.worker.window import WindowFigures


@dataclass(frozen=True)
class Round:
    """What a rank does for the next update.

    Attributes:
        version: The updates made so far.
        seen_words: The target words behind them.
        window: The rank's batches; none where the epochs end.
        upcoming: Those of the round after it, to prepare.
        progress: The share of the training that is over, the same for all ranks.
    """

    version: int
    seen_words: float
    window: list[AssignedBatch]
    upcoming: list[AssignedBatch]
    progress: float


@dataclass(frozen=True)
class RoundDone:
    """What has come of a round.

    Attributes:
        figures: Of the windows of all ranks together. `worker`, `compute_seconds`,
            `split_batches` and `bad_batches` are this rank's own; all other fields are the same
            on every rank.
        learning_rate: Of the update; None if there was none, as the gradient was not finite.
        squares: The squared norm of each rank's gradient, summed over its words, and at last that
            of the sum of all; None in rounds in which they were not measured.
        words: Target words of each rank.
    """

    figures: WindowFigures
    learning_rate: float | None
    squares: tuple[float, ...] | None = None
    words: tuple[int, ...] = ()


class MeetingError(Exception):
    """The ranks could not come together."""


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """Turn a collective's RuntimeError into a `MeetingError`, to tell it from this rank's own."""
    try:
        yield
    except RuntimeError as error:
        raise MeetingError from error


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
        self.gradient = WindowGradient(flat, corpus, config)
        self.bad_batches = BadBatchFinder(index, self.gradient)
        self.collective = collective
        self.shard = shard
        self.device = flat.parameters.device
        self._prepared: dict[tuple[int, int], Batch] = {}

    def play(self, task: Round) -> RoundDone:
        """Compute the window's gradient, meet the others, update the own shard."""
        stopwatch = _Stopwatch(self.device)
        self.gradient.begin_sum()
        figures = [
            self.gradient.add_assigned(assigned, self._prepared.pop(_key(assigned), None))
            for assigned in task.window
        ]
        stopwatch.stop()
        if task.upcoming:  # the device still computes, or the others do
            first = task.upcoming[0]
            self._prepared = {_key(first): self.gradient.collate(first)}
        measured = task.version % PAIR_EVERY == 0  # one pass over the vector more
        own = self.flat.gradients.norm() if measured else None
        with meeting():
            total = self.collective.sum_gradients()
            table = self.collective.gather(self._figures(figures, total, own))
        # every rank sums the same table in the same order, so all decide alike
        *counts, cross_entropy, square, _ = table.sum(0).tolist()
        batches, target_words, source_words, padding = map(int, counts)
        norm = math.sqrt(square) / max(target_words, 1) if square >= 0 else math.nan
        applied = target_words > 0 and math.isfinite(norm)
        overflowed = self.gradient.finish(total, norm, clip=applied)
        rate = None
        if applied:
            rate = self.shard.update(
                total, target_words, task.version, task.seen_words, task.progress
            )
            with meeting():
                self.collective.share_parameters()
        together = WindowFigures(
            worker=self.index,
            num_batches=batches,
            target_words=target_words,
            source_words=source_words,
            cross_entropy=cross_entropy,
            gradient_norm=norm,
            compute_seconds=stopwatch.seconds(),
            padding=padding,
            overflowed=overflowed,
            split_batches=self.gradient.take_num_split(),
        )
        if target_words > 0 and not (applied or overflowed):  # nobody reads the gradients any more
            together.bad_batches = self.bad_batches.find(task.window)
        words = tuple(map(int, table[:, 1].tolist()))
        squares = (*table[:, 6].tolist(), square) if measured and applied else None
        return RoundDone(together, rate, squares, words)

    def _figures(
        self, batches: list[BatchFigures], total: Tensor, own_norm: Tensor | None
    ) -> Tensor:
        """Batches, target words, source words, padding, cross-entropy; the shard's squared norm,
        and that of the rank's own gradient, if it is given: [7]."""
        counts = [
            len(batches),
            sum(b.target_words for b in batches),
            sum(b.source_words for b in batches),
            sum(b.padding for b in batches),
        ]
        figures = torch.tensor([*counts, 0, 0, 0], dtype=torch.float64)
        figures = figures.to(self.device, non_blocking=True)
        if batches:
            figures[4] = torch.stack([b.cross_entropy for b in batches]).double().sum()
        figures[5] = total.norm().double().square()
        if own_norm is not None:
            figures[6] = own_norm.double().square()
        return figures


def _key(assigned: AssignedBatch) -> tuple[int, int]:
    return assigned.epoch, assigned.index


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
        """Return how long it took; on a GPU, once the device has come that far."""
        if self._events:
            start, end = self._events
            return float(start.elapsed_time(end)) / 1000
        return self._end - self._start


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
