"""The gradient of a mini-batch: a pure function of parameters, batch and seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.data.batches import Batch
from nmtasync.models.loss import loss_sums
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel


@dataclass(frozen=True)
class BatchFigures:
    """What is known of a batch once its gradient is there.

    Attributes:
        cross_entropy: Sum over the target words, in nats; still on the device.
        target_words: End of sentence counted, padding not.
        source_words: Likewise.
    """

    cross_entropy: Tensor
    target_words: int
    source_words: int


def add_gradient(
    flat: FlatModel[SequenceToSequence], batch: Batch, label_smoothing: float, seed: int
) -> BatchFigures:
    """Add the batch's gradient, summed over its target words, to `flat.gradients`.

    Args:
        flat: The model.
        batch: On the model's device.
        label_smoothing: See `training.label_smoothing`.
        seed: Of the dropout; see `batch_seed`.
    """
    torch.manual_seed(seed)
    smoothed, cross_entropy = loss_sums(
        flat.model,
        batch.source,
        batch.source_mask,
        batch.target_input,
        batch.target,
        label_smoothing,
    )
    smoothed.backward()  # type: ignore[no-untyped-call]
    return BatchFigures(cross_entropy, batch.target_words, batch.source_words)


def batch_seed(seed: int, epoch: int, index: int) -> int:
    """Derive the seed of a batch's dropout, the same whoever computes the batch and when."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{index}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def clip_factor(gradient_norm: float, clip_norm: float | None) -> float:
    """By how much to shrink a gradient so that its norm is at most `clip_norm`."""
    if clip_norm is None or gradient_norm <= clip_norm:
        return 1.0
    return clip_norm / gradient_norm
