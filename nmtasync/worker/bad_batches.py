"""Which batches made a window's gradient not finite: kept for someone to look at.

A gradient is a pure function of parameters, batch and seed, and one that is not finite is not
used. So its batches are computed again, one by one, and nothing is looked for as long as all is
well. Where a local optimizer has moved the replica meanwhile, the search may find none of them;
then all batches of the window are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmtasync.data.cursor import AssignedBatch
from nmtasync.worker.gradient import WindowGradient

MAX_FOUND = 20
"""A worker looks for no more: each costs a gradient, and after so many they tell nothing new."""


@dataclass(frozen=True)
class BadBatch:
    """A batch whose gradient is not finite.

    Attributes:
        worker: Who computed it.
        epoch: Of the batch.
        index: Its place in the epoch.
        sentences: The numbers of its sentence pairs in the training corpus.
        loss: Cross-entropy per target word, in nats.
        parameters: The names of those whose gradients are not finite.
    """

    worker: int
    epoch: int
    index: int
    sentences: tuple[int, ...]
    loss: float
    parameters: tuple[str, ...]


class BadBatchFinder:
    """Finds the bad batches of a worker's or rank's windows.

    Args:
        worker: Which one.
        gradient: Computes gradients, on the parameters that the windows were computed on.
    """

    def __init__(self, worker: int, gradient: WindowGradient) -> None:
        self.worker = worker
        self.gradient = gradient
        self._num_found = 0

    def find(self, window: Sequence[AssignedBatch]) -> tuple[BadBatch, ...]:
        """Compute a window's batches again, one by one; `flat.gradients` is overwritten.

        Args:
            window: Its sum was not finite.

        Returns:
            Those whose gradients are not finite, or all if none of them is the cause alone.
        """
        if self._num_found >= MAX_FOUND:
            return ()
        computed = [self._compute(assigned) for assigned in window]
        bad = tuple(batch for batch in computed if batch.parameters) or tuple(computed)
        self._num_found += len(bad)
        return bad

    def _compute(self, assigned: AssignedBatch) -> BadBatch:
        flat = self.gradient.flat
        self.gradient.begin_sum()
        figures = self.gradient.add_assigned(assigned)
        views = flat.layout.views(flat.gradients)
        return BadBatch(
            self.worker,
            assigned.epoch,
            assigned.index,
            tuple(map(int, assigned.sentences)),
            float(figures.cross_entropy) / max(figures.target_words, 1),
            tuple(name for name, view in views.items() if not view.isfinite().all()),
        )
