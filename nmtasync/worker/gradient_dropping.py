"""Gradient dropping: push only the largest part of a gradient.

What becomes of the rest says `nmtasync/worker/error_feedback.py`.

Shapes: P is the length of the parameter vector.

Sources: Aji and Heafield 2017, "Sparse Communication for Distributed Gradient Descent"
(arXiv 1704.05021); the local gradient: Aji, Heafield and Bogoychev 2019, "Combining Global
Sparse Gradients with Local Gradients in Distributed Neural Machine Translation" (D19-1373).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmtasync.config.schema import AsynchronousConfig


def drop_rate_at(pushes: int, config: AsynchronousConfig) -> float:
    """The share of a gradient that is dropped; it rises linearly from 0.

    Args:
        pushes: Those that the worker has made.
        config: The rate, and over how many pushes it rises.
    """
    assert config.drop_rate is not None
    warmup = config.drop_warmup_pushes
    return config.drop_rate * (min(1.0, pushes / warmup) if warmup else 1.0)


def keep_largest(total: Tensor, rate: float, out: Tensor) -> None:
    """Copy the largest elements of `total` [P] to `out` [P], and zeros in place of the others.

    Args:
        total: What is chosen from.
        rate: The share of elements that is dropped.
        out: Overwritten.
    """
    places = torch.topk(total.abs(), num_kept(total.numel(), rate), sorted=False).indices
    out.zero_()
    out[places] = total[places]


def num_kept(size: int, rate: float) -> int:
    """How many of `size` elements are pushed: one at least."""
    return max(1, size - int(size * rate))
