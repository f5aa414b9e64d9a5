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
        target_words: Target words behind the payload; end of sentence counted, padding not.
        gradient_norm: Global norm of the gradient per target word, before clipping.
        num_values: How many values a sparse payload has (see `sparse`); None if it is dense.
        progress: The share of the training that was over when its batches were drawn.
        slot: Which of the worker's slots it was computed in, and is answered to.
        shards: The shards that it is for; None for all.
    """

    worker: int
    sequence: int
    base_versions: tuple[int, ...]
    target_words: int
    gradient_norm: float
    num_values: int | None = None
    progress: float = 0.0
    slot: int = 0
    shards: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Reply:
    """The header of the answer. Its payload [P], the fresh parameters, is beside it.

    Attributes:
        versions: The version of each shard in the payload.
        applied: Whether the push changed anything: not if it was a repeat or not finite.
        staleness: For each shard that the push was for, how many updates it came late; none if it
            changed nothing.
        learning_rate: What the update of the push was made with; None if it made none, but waits
            in a buffer.
        update_norm: How far it has moved the parameters, where that was asked for.
        shards: Those that the push was for; None for all.
    """

    versions: tuple[int, ...]
    applied: bool = False
    staleness: tuple[int, ...] = ()
    learning_rate: float | None = None
    update_norm: float | None = None
    shards: tuple[int, ...] | None = None
