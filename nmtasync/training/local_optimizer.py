"""Local optimizers: a worker's own steps between two pushes.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch

from nmtasync.config.schema import Config
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.adam import Adam
from nmtasync.optim.flat import FlatModel
from nmtasync.optim.schedules import learning_rate_at
from nmtasync.training.gradient import clip_factor


class LocalOptimizer:
    """A worker's own Adam, applied to its replica after every batch.

    What it changes is only the replica: the push is still the sum of the gradients, and the
    fetch after it replaces the replica.

    Source: Bogoychev et al. 2018 (arXiv 1808.08859), section 4.
    """

    def __init__(self, flat: FlatModel[SequenceToSequence], config: Config) -> None:
        self.flat = flat
        self.config = config
        self.gradient = torch.zeros_like(flat.gradients)
        self.first_moment = torch.zeros_like(flat.parameters)
        self.second_moment = torch.zeros_like(flat.parameters)
        self.updates = 0

    @contextlib.contextmanager
    def separate_gradient(self) -> Iterator[None]:
        """While the context lasts, gradients go to `gradient` [P]; then they join the window's."""
        window_gradient = self.flat.gradients
        self.gradient.zero_()
        self.flat.bind(self.flat.parameters, self.gradient)
        yield
        self.flat.bind(self.flat.parameters, window_gradient)
        window_gradient.add_(self.gradient)

    def update(self, target_words: int, shard_updates: int) -> None:
        """Apply the batch's gradient to the replica.

        Args:
            target_words: Of the batch.
            shard_updates: The clock of the learning rate, which follows the shards'.
        """
        options = self.config.asynchronous
        self.updates += 1
        norm = float(self.gradient.norm()) / target_words
        if not math.isfinite(norm):
            return  # the push will carry it, and the server will refuse it
        factor = clip_factor(norm, self.config.optimizer.clip_norm)
        adam = Adam(
            self.flat.parameters,
            self.first_moment,
            self.second_moment,
            self.config.optimizer.epsilon,
        )
        adam.update(
            self.gradient,
            divisor=target_words / factor,
            number=self.updates,
            learning_rate=learning_rate_at(shard_updates, target_words, self.config.schedule),
            beta1=options.local_beta1,
            beta2=options.local_beta2,
        )
