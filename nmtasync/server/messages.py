"""What workers and the server say to each other. Fetch follows push, so the two are one exchange.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Push:
    """The header of a push. Its payload [P], a gradient summed over target words, is beside it.

    Attributes:
        worker: Who pushes.
        sequence: The number of this push among the worker's, from 1 on. The server takes each
            number once, so a push may be repeated without harm.
        base_versions: The version of each shard that the gradient was computed on.
        num_batches: Mini-batches behind the payload.
        target_words: Target words behind the payload; end of sentence counted, padding not.
        source_words: Source words behind it, counted likewise.
        cross_entropy: Sum over the target words, in nats.
        gradient_norm: Global norm of the gradient per target word, before clipping.
        compute_seconds: Time that the worker spent computing it.
        overflowed: Whether the gradient is not finite because float16 could not hold it: no sign
            of divergence, and the worker has taken a smaller scale.
        num_values: How many values a sparse payload has (see `sparse`); None if it is dense.
        progress: The share of the training that was over when its batches were drawn.
        slot: Which of the worker's slots it was computed in, and is answered to.
        idle_seconds: For how long the worker had nothing to compute before it, where exchanges
            overlap with computing; None where it waits for every answer.
    """

    worker: int
    sequence: int
    base_versions: tuple[int, ...]
    num_batches: int
    target_words: int
    source_words: int
    cross_entropy: float
    gradient_norm: float
    compute_seconds: float
    overflowed: bool = False
    num_values: int | None = None
    progress: float = 0.0
    slot: int = 0
    idle_seconds: float | None = None


@dataclass(frozen=True)
class Reply:
    """The header of the answer. Its payload [P], the fresh parameters, is beside it.

    Attributes:
        sequence: The push that it answers.
        versions: The version of each shard in the payload.
        applied: Whether the push changed anything: not if it was a repeat or not finite.
        staleness: For each shard, how many updates the push came late.
        learning_rate: Of the update that the push made; None if it made none, but waits in a
            buffer.
        update_norm: How far it has moved the parameters, where that was asked for.
    """

    sequence: int
    versions: tuple[int, ...]
    applied: bool
    staleness: tuple[int, ...]
    learning_rate: float | None
    update_norm: float | None = None
