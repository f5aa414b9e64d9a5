"""A worker: it turns a window of batches into one push, on its own replica of the parameters.

A plain object, free of processes, that decides nothing by a clock: drivers run it in this process
or in another. It asks its device for values only at the end of a window, the loss and the norm,
and, with local optimizers, for the norm of each local step. Clipping is its affair: on the global
norm of the gradient per word, before the push.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.server.messages import Push
from nmtasync.server.sparse import pack
from nmtasync.worker.gradient import BatchFigures, WindowGradient
from nmtasync.worker.gradient_dropping import GradientDropper, drop_rate_at
from nmtasync.worker.local_optimizer import LocalOptimizer
from nmtasync.worker.window import ComputedWindow, WindowFigures


class Worker:
    """Computes pushes.

    Args:
        index: Which worker this is, from 0 on.
        flat: Its replica of the model. The gradient of a window is gathered in
            `flat.gradients`, and fetched parameters are written to `flat.parameters`.
        corpus: The training corpus.
        config: The experiment.
        sequence: The number of the last push that the server took from this worker.
        batches: How many batches this worker has computed before.
        write_back: Called after each local step, if `asynchronous.local_write_back` is on, to
            have the parameters of the replica written over a shard.
    """

    def __init__(
        self,
        index: int,
        flat: FlatModel[SequenceToSequence],
        corpus: ParallelShards,
        config: Config,
        sequence: int = 0,
        batches: int = 0,
        write_back: Callable[[], None] | None = None,
    ) -> None:
        self.index = index
        self.flat = flat
        self.gradient = WindowGradient(flat, corpus, config)
        self.config = config
        self.sequence = sequence
        self.batches = batches
        self.write_back = write_back
        self.versions: tuple[int, ...] = ()
        self.local: LocalOptimizer | None = None
        self.dropper: GradientDropper | None = None
        options = config.asynchronous
        if options.drop_rate is not None:
            self.dropper = GradientDropper(flat.size, flat.parameters.device)
        if self.local_batches_left > 0 or options.drop_local_gradient:
            self.local = LocalOptimizer(flat, config)
        self._pushed_words = 0

    @property
    def local_batches_left(self) -> float:
        """For how many more batches the local optimizer runs."""
        limit = self.config.asynchronous.local_optimizer_batches
        return math.inf if isinstance(limit, str) else limit - self.batches

    def compute(self, window: Sequence[AssignedBatch], slot: int = 0) -> ComputedWindow:
        """Compute the gradient of a window; its payload is left in `flat.gradients`.

        The parameters must be those fetched last for the slot, of `versions`.
        """
        start = time.perf_counter()
        self.flat.gradients.zero_()
        self._apply_what_was_kept(window[0].progress)
        if self.local is not None:
            self.local.begin_window()
        figures = [self._compute_batch(assigned) for assigned in window]
        target_words = sum(figure.target_words for figure in figures)
        # the host waits for the device here and for the norm below
        cross_entropy = float(torch.stack([f.cross_entropy for f in figures]).double().sum())
        if self.local is not None:
            self.local.end_window(target_words)
        norm = float(self.flat.gradients.norm()) / max(target_words, 1)
        whole = self.config.asynchronous.local_push == "delta"  # each local step was clipped
        overflowed = self.gradient.finish(self.flat.gradients, norm, clip=not whole)
        self._pushed_words = target_words
        num_values = None
        if self.dropper is not None and math.isfinite(norm):
            self.dropper.split(
                self.flat.gradients, drop_rate_at(self.sequence, self.config.asynchronous)
            )
            num_values = pack(self.flat.gradients)
        self.sequence += 1
        push = Push(
            worker=self.index,
            sequence=self.sequence,
            base_versions=self.versions,
            target_words=target_words,
            gradient_norm=norm,
            num_values=num_values,
            progress=window[0].progress,
            slot=slot,
        )
        summed = WindowFigures(
            worker=self.index,
            num_batches=len(figures),
            target_words=target_words,
            source_words=sum(figure.source_words for figure in figures),
            cross_entropy=cross_entropy,
            gradient_norm=norm,
            compute_seconds=time.perf_counter() - start,
            overflowed=overflowed,
            slot=slot,
        )
        return ComputedWindow(push, summed)

    def _apply_what_was_kept(self, progress: float) -> None:
        """Let the replica have what gradient dropping has kept from the shards, if it shall."""
        if self.config.asynchronous.drop_local_gradient and self._pushed_words:
            assert self.local is not None and self.dropper is not None
            self.local.gradient.copy_(self.dropper.residual)
            self.local.update(self._pushed_words, max(self.versions, default=0) + 1, progress)

    def _compute_batch(self, assigned: AssignedBatch) -> BatchFigures:
        local = self.local if self.local_batches_left > 0 else None  # it may serve dropping only
        if local is None:
            figures = self.gradient.add_assigned(assigned)
        else:
            with local.separate_gradient():
                figures = self.gradient.add_assigned(assigned)
            shard_updates = max(self.versions, default=0) + 1
            local.update(figures.target_words, shard_updates, assigned.progress)
            if self.write_back is not None:
                self.write_back()
        self.batches += 1
        return figures

    def state_vectors(self) -> dict[str, Tensor]:
        """The vectors [P] that a checkpoint must keep so that the worker goes on unchanged."""
        vectors = {}
        if self.local is not None:
            vectors[f"local_first_moment.{self.index}"] = self.local.first_moment
            vectors[f"local_second_moment.{self.index}"] = self.local.second_moment
        if self.dropper is not None:
            vectors[f"residual.{self.index}"] = self.dropper.residual
        return vectors

    def numbers(self) -> dict[str, int]:
        """The clocks that a checkpoint must keep besides the vectors."""
        numbers = {
            "batches": self.batches,
            "local_updates": self.local.updates if self.local else 0,
            "pushed_words": self._pushed_words,
        }
        if self.gradient.scale is not None:
            numbers.update(self.gradient.scale.numbers())
        return numbers

    def restore(self, vectors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Go on from what `state_vectors` and `numbers` returned.

        What was not kept, as by the driver of several workers, begins anew.
        """
        self.batches = numbers["batches"]
        self._pushed_words = numbers.get("pushed_words", 0)
        own = self.state_vectors()
        for name in own.keys() & vectors.keys():
            own[name].copy_(vectors[name])
        if self.local is not None and f"local_first_moment.{self.index}" in vectors:
            self.local.updates = numbers["local_updates"]
        if self.gradient.scale is not None:
            self.gradient.scale.restore(numbers)
