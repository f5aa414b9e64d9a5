"""Exponential smoothing: a moving average of the parameters, kept where they are."""

from __future__ import annotations

from torch import Tensor


def smooth(average: Tensor, parameters: Tensor, newest_weight: float) -> None:
    """Move the average [n] towards the newest parameters [n], in place."""
    average.lerp_(parameters, newest_weight)
