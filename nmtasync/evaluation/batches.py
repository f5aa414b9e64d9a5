"""Sentences put together to batches of similar length.

Shapes: B sentences, S pieces of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nmtasync.data.vocabulary import PAD

MAX_BATCH_PIECES = 4096
"""Source pieces of a batch, padding counted."""


def plan_batches(lengths: Mapping[int, int], max_sentences: int) -> Iterator[list[int]]:
    """Group sentences of similar length, the longest first: if memory lacks, then at once.

    Args:
        lengths: Of each sentence, in pieces, by its number.
        max_sentences: The most of a batch.

    Yields:
        The numbers of a batch; of at most `MAX_BATCH_PIECES` if it is more than one sentence.
    """
    batch: list[int] = []
    longest = 0
    for number in sorted(lengths, key=lambda number: -lengths[number]):
        longest = longest or lengths[number]
        full = len(batch) == max_sentences
        if batch and (full or (len(batch) + 1) * longest > MAX_BATCH_PIECES):
            yield batch
            batch, longest = [], lengths[number]
        batch.append(number)
    if batch:
        yield batch


def pad(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Put sentences of ids in one tensor, filled up with PAD [B, S]."""
    longest = max(len(ids) for ids in sentences)
    return torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in sentences])
