"""Local optimizers: a worker's own steps between two pushes.

They move only the worker's replica, but for `asynchronous.local_write_back`, which writes each step
over the worker's own shard, as the authors' code does: it erases what others pushed there, and is
off. A delta of local steps is pushed times its words, so that every rule can
treat it as a sum of gradients. The optimizer is a warm-up: its state survives a resume with one
worker beside the server, and in a simulation; it begins anew with each worker in a process of its
own, and with one that takes another's place.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import math

import torch

from nmtasync.config.schema import Config
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.adam import Adam
from nmtasync.optim.clipping import clip_factor
from nmtasync.optim.flat import FlatModel
from nmtasync.optim.schedules import learning_rate_at, local_betas_at
from nmtasync.optim.update import Update
from nmtasync.worker.batch_gradient import BatchGradient


class LocalOptimizer:
    """A worker's own Adam, applied to its replica after every batch.

    What it changes is only the replica: the push is still the sum of the gradients, unless the way
    that the replica has gone is pushed, and the fetch after it replaces the replica.

    Source: Bogoychev et al. 2018 (arXiv 1808.08859), section 4.
    """

    def __init__(
        self, flat: FlatModel[SequenceToSequence], batch_gradient: BatchGradient, config: Config
    ) -> None:
        self.flat = flat
        self.config = config
        self.gradient = batch_gradient.gradient
        self.first_moment = torch.zeros_like(flat.parameters)
        self.second_moment = torch.zeros_like(flat.parameters)
        self.updates = 0
        self._spoilt = False
        pushes_way = config.asynchronous.local_push == "delta"
        self.start = torch.zeros_like(flat.parameters) if pushes_way else None

    def begin_window(self) -> None:
        """Remember where the replica's steps begin."""
        self._spoilt = False
        if self.start is not None:
            self.start.copy_(self.flat.parameters)

    def end_window(self, target_words: int) -> None:
        """Put the way that the replica has gone into the window's gradient, if that is pushed.

        The way counts downhill, as a gradient, and times the words, as a sum over them. It is not
        finite if one of the gradients was not.
        """
        if self.start is not None:
            torch.sub(self.start, self.flat.parameters, out=self.flat.gradients)
            self.flat.gradients.mul_(math.nan if self._spoilt else target_words)

    def update(self, target_words: int, shard_updates: int, progress: float) -> None:
        """Apply the batch's gradient to the replica.

        Args:
            target_words: Of the batch.
            shard_updates: The clock of the learning rate, which follows the shards'.
            progress: The share of the training that is over, likewise.
        """
        self.updates += 1
        norm = float(self.gradient.norm()) / target_words
        if not math.isfinite(norm):
            self._spoilt = True  # the push will carry it, and the server will refuse it
            return
        factor = clip_factor(norm, self.config.optimizer.clip_norm)
        moments = self.first_moment, self.second_moment
        adam = Adam(self.flat.parameters, *moments, self.config.optimizer.epsilon)
        rate = self._learning_rate(target_words, shard_updates, progress)
        betas = local_betas_at(self.updates, self.config.asynchronous)
        adam.update(self.gradient, Update(self.updates, target_words / factor, rate, *betas))

    def _learning_rate(self, target_words: int, shard_updates: int, progress: float) -> float:
        own = self.config.asynchronous.local_learning_rate
        if own is not None:
            return own
        return learning_rate_at(shard_updates, target_words, self.config.schedule, progress)
