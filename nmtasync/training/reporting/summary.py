"""What is left to say when training has ended."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.checkpoints.history import Validation
from nmtasync.training.reporting.reporter import TimeSpent


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
        num_parameters: Of the model, tied ones counted once.
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
