"""What a worker makes of a window of batches: a push, and figures of which reports are made."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.server.messages import Push
from nmtasync.worker.bad_batches import BadBatch


@dataclass
class WindowFigures:
    """What a window was; drivers that know its times better than the worker set them.

    Attributes:
        worker: Whose window it was.
        num_batches: Mini-batches in it.
        target_words: Target words in it; end of sentence counted, padding not.
        source_words: Source words in it, counted likewise.
        cross_entropy: Sum over the target words, in nats.
        gradient_norm: Global norm of the gradient per target word, before clipping.
        compute_seconds: Time that the worker spent computing it.
        padding: What was computed besides the words of both sides, since batches are padded.
        overflowed: Whether the gradient is not finite because float16 could not hold it: no sign
            of divergence, and the worker has taken a smaller scale.
        slot: Which of the worker's slots it was computed in.
        idle_seconds: For how long the worker had nothing to compute before it; None where that is
            the time of the exchange before it.
        split_batches: How many batches were computed in parts, since memory did not suffice.
        bad_batches: Those that made the gradient not finite, if it is not; see `BadBatchFinder`.
    """

    worker: int
    num_batches: int
    target_words: int
    source_words: int
    cross_entropy: float
    gradient_norm: float
    compute_seconds: float
    padding: int = 0
    overflowed: bool = False
    slot: int = 0
    idle_seconds: float | None = None
    split_batches: int = 0
    bad_batches: tuple[BadBatch, ...] = ()


@dataclass(frozen=True)
class ComputedWindow:
    """What a worker hands to its driver, beside the payload [P] of the push.

    Attributes:
        push: For the server.
        figures: For reports.
    """

    push: Push
    figures: WindowFigures
