"""What is left to say when training has ended."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.checkpoints.history import Validation
from nmtasync.training.reporting.reporter import TimeSpent

FEW_MORE_WORDS = 0.1
"""Batches are called small as long as they need no more than this share of words in vain."""


@dataclass(frozen=True)
class NoiseSummary:
    """The noise of gradients beside what updates were made of.

    Attributes:
        scale_words: The noise scale, in target words.
        update_words: Target words of an update.
        workers: How many workers had so many under way.
    """

    scale_words: float
    update_words: float
    workers: int

    @property
    def larger_batches(self) -> float:
        """How many times as large batches could be, for a tenth more words to train on.

        To first order training needs 1 + w / B times the words that small updates need, with w
        words under way and a noise scale of B (McCandlish et al. 2018, arXiv 1812.06162).
        """
        return FEW_MORE_WORDS * self.scale_words / (self.update_words * self.workers)


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run has come to.

    Attributes:
        reason: Why it ended.
        exit_code: For the process.
        seconds: Time since training began, over resumes.
        updates: Of the shards.
        epochs: How often the corpus was read.
        source_words: Seen in training, over resumes.
        target_words: Likewise.
        best: The best validation, if there was one.
        workers: What share of the time each worker computed, exchanged and waited.
        non_finite_pushes: Those that were dropped, since they were not finite, over resumes.
        split_batches: Those that were computed in parts, since memory did not suffice, likewise.
        rollbacks: How often training has diverged and gone back, likewise.
        num_parameters: Of the model, tied ones counted once.
        padding: What share of all that was computed was padding, from 0 to 1, over resumes; None
            if nothing was.
        bytes_sent: Payloads of pushes, as they would be between hosts, over resumes.
        bytes_received: Parameters that answered them, likewise.
        noise: How noisy gradients were, if that is known.
    """

    reason: str
    exit_code: int
    seconds: float
    updates: int
    epochs: float
    source_words: int
    target_words: int
    best: Validation | None
    workers: dict[int, TimeSpent]
    num_parameters: int
    non_finite_pushes: int
    split_batches: int
    rollbacks: int
    padding: float | None
    bytes_sent: int
    bytes_received: int
    noise: NoiseSummary | None = None
