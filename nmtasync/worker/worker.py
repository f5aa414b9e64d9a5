"""A worker: it turns a window of batches into one push, on its own replica of the parameters.

A plain object, free of processes, that decides nothing by a clock: drivers run it in this process
or in another. It asks its device for values only at the end of a window, the loss and the norm,
and, with local optimizers or shards of its own, for the norm of each batch's gradient. Clipping is
its affair: on the global norm of the gradient per word, before the push.

With `asynchronous.own_shard` = batch, its own shards take each batch's gradient at once, clipped
by the norm of the whole of it; the push of the window is for the other shards, and clipped by the
norm of what they get.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.server.messages import Push
from nmtasync.server.sparse import pack
from nmtasync.worker.bad_batches import BadBatchFinder
from nmtasync.worker.batch_gradient import BatchGradient
from nmtasync.worker.error_feedback import ErrorFeedback
from nmtasync.worker.gradient import BatchFigures, WindowGradient
from nmtasync.worker.local_optimizer import LocalOptimizer
from nmtasync.worker.own_shards import OwnShards, WorkerPlace
from nmtasync.worker.window import ComputedWindow, WindowFigures

Shards = tuple[int, ...] | None
"""Those that a push is for; None for all."""


@dataclass
class OpenWindow:
    """A window that a worker is computing.

    Attributes:
        progress: The share of the training that was over when it was drawn.
        slot: Which of the worker's slots it is computed in.
        start: When it was begun, by `time.perf_counter`.
        batches: What has been computed of it.
        finite: Whether what the own shards were to get of it was; a window is refused as a whole.
    """

    progress: float
    slot: int
    start: float = field(default_factory=time.perf_counter)
    batches: list[BatchFigures] = field(default_factory=list)
    finite: bool = True

    @property
    def target_words(self) -> int:
        """Those computed so far."""
        return sum(batch.target_words for batch in self.batches)


class Worker:
    """Computes pushes.

    Args:
        place: Which worker this is.
        flat: Its replica. `flat.gradients` gathers a window, `flat.parameters` what is fetched.
        corpus: The training corpus.
        config: The experiment.
        sequence: The number of the last push that the server took from this worker.
        batches: How many batches this worker has computed before.

    Attributes:
        versions: Of the parameters that it has, shard by shard.
        window: The window that is being computed, if one is.
    """

    def __init__(
        self,
        place: WorkerPlace,
        flat: FlatModel[SequenceToSequence],
        corpus: ParallelShards,
        config: Config,
        sequence: int = 0,
        batches: int = 0,
    ) -> None:
        self.index = place.index
        self.access = place.access
        self.num_devices = place.num_devices
        self.flat = flat
        self.others = place.others
        self.gradient = WindowGradient(flat, corpus, config, self.others)
        self.bad_batches = BadBatchFinder(place.index, self.gradient)
        self.config = config
        self.sequence = sequence
        self.batches = batches
        self.versions: tuple[int, ...] = ()
        self.window: OpenWindow | None = None
        self.batch_gradient: BatchGradient | None = None
        self.local: LocalOptimizer | None = None
        self.feedback: ErrorFeedback | None = None
        options = config.asynchronous
        self.own: OwnShards | None = None
        if options.own_shard == "batch" and place.index < place.num_shards:  # or it has none
            self.own = OwnShards(place, flat, config.optimizer.clip_norm)
        if options.keeps_residual:
            self.feedback = ErrorFeedback(flat.size, flat.parameters.device, options)
        local = self.local_batches_left > 0 or options.drop_local_gradient
        if local or self.own is not None:
            self.batch_gradient = BatchGradient(flat)
            self.local = LocalOptimizer(flat, self.batch_gradient, config) if local else None
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
        self.begin(window[0].progress, slot)
        self.add_rest(window)
        return self.end(window)

    def add_rest(self, window: Sequence[AssignedBatch]) -> None:
        """Compute what is left of the window, a batch of each device at a time."""
        assert self.window is not None
        for start in range(len(self.window.batches), len(window), self.num_devices):
            self.add(*window[start : start + self.num_devices])

    def begin(self, progress: float, slot: int = 0) -> None:
        """Begin a window; arguments as in `OpenWindow`."""
        self.window = OpenWindow(progress, slot)
        self.gradient.begin_sum()
        self._apply_what_was_kept(progress)
        if self.local is not None:
            self.local.begin_window()
        if self.others is not None:
            self.others.hand_out(slot)

    def add(self, *together: AssignedBatch) -> None:
        """Compute one more batch of the window, or one of each device.

        A local step is made of all of them; the own shards get what is theirs.
        """
        assert self.window is not None
        stepping = self.local is not None and self.local_batches_left > 0  # or it is for dropping
        if not stepping and self.own is None:
            self.window.batches += self.gradient.add_together(together)
        else:
            assert self.batch_gradient is not None
            figures = self.gradient.add_apart(together, self.batch_gradient)
            words = sum(batch.target_words for batch in figures)
            # the local step overwrites the gradient, and the own shards overwrite that step
            norm = self.own.load(self.batch_gradient.gradient, words) if self.own else 0.0
            self.window.finite &= math.isfinite(norm)
            if stepping:
                self._step_locally(words, together[0].progress)
            if self.own is not None:
                push = self._header(self.window, words, norm, self.own.indices)
                number = len(self.window.batches)
                self.versions = self.own.exchange(push, number, self.versions)
            self.window.batches += figures
        self.batches += len(together)

    def _step_locally(self, target_words: int, progress: float) -> None:
        assert self.local is not None and self.window is not None
        self.local.update(target_words, max(self.versions, default=0) + 1, progress)
        if self.others is not None:
            self.others.hand_out(self.window.slot)
        if self.config.asynchronous.local_write_back:
            assert self.access is not None
            self.access.write_back(len(self.window.batches), progress)

    def end(self, batches: Sequence[AssignedBatch]) -> ComputedWindow:
        """End the window of these batches; its payload is left in `flat.gradients`."""
        assert self.window is not None
        window, self.window = self.window, None
        target_words = window.target_words
        # the host waits for the device here and for the norm below
        cross_entropy = float(torch.stack([b.cross_entropy for b in window.batches]).double().sum())
        if self.local is not None:
            self.local.end_window(target_words)
        norm = float(self.flat.gradients.norm()) / max(target_words, 1)
        norm = norm if window.finite else math.nan
        whole = self.config.asynchronous.local_push == "delta"  # each local step was clipped
        overflowed = self.gradient.finish(self.flat.gradients, norm, clip=not whole)
        self._pushed_words = target_words
        num_values = None
        if self.feedback is not None and math.isfinite(norm):
            self.feedback.split(self.flat.gradients, self.sequence)
            if self.config.asynchronous.drop_rate is not None:
                num_values = pack(self.flat.gradients, self.feedback.wire)
        others = None if self.own is None else self.own.others
        push = self._header(window, target_words, norm, others, num_values)
        summed = WindowFigures(
            worker=self.index,
            num_batches=len(window.batches),
            target_words=target_words,
            source_words=sum(batch.source_words for batch in window.batches),
            cross_entropy=cross_entropy,
            gradient_norm=norm,
            compute_seconds=time.perf_counter() - window.start,
            padding=sum(batch.padding for batch in window.batches),
            overflowed=overflowed,
            slot=window.slot,
            split_batches=self.gradient.take_num_split(),
        )
        if not (math.isfinite(norm) or overflowed):  # the payload will not be used
            summed.bad_batches = self.bad_batches.find(batches)
        return ComputedWindow(push, summed)

    def _header(
        self, window: OpenWindow, words: int, norm: float, shards: Shards, values: int | None = None
    ) -> Push:
        """Make the header of the worker's next push."""
        self.sequence += 1
        return Push(
            worker=self.index,
            sequence=self.sequence,
            base_versions=self.versions,
            target_words=words,
            gradient_norm=norm,
            num_values=values,
            progress=window.progress,
            slot=window.slot,
            shards=shards,
        )

    def _apply_what_was_kept(self, progress: float) -> None:
        """Let the replica have what was kept from the shards, if it shall."""
        if self.config.asynchronous.drop_local_gradient and self._pushed_words:
            assert self.local is not None and self.feedback is not None
            self.local.gradient.copy_(self.feedback.residual)
            self.local.update(self._pushed_words, max(self.versions, default=0) + 1, progress)

    def state_vectors(self) -> dict[str, Tensor]:
        """The vectors [P] that a checkpoint must keep so that the worker goes on unchanged."""
        vectors = {}
        if self.local is not None:
            vectors[f"local_first_moment.{self.index}"] = self.local.first_moment
            vectors[f"local_second_moment.{self.index}"] = self.local.second_moment
        if self.feedback is not None:
            vectors[f"residual.{self.index}"] = self.feedback.residual
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
