"""Exponential smoothing: a moving average of the parameters, kept where they are."""

from __future__ import annotations

from torch import Tensor


def smooth(average: Tensor, parameters: Tensor, updates: int, newest_weight: float) -> None:
    """Move the average [n] towards the parameters [n] after an update, in place.

    The newest parameters weigh d = max(newest_weight, 1 - (t + 1) / (t + 10)): early in training
    the average forgets fast; later it settles at `newest_weight`.

    Args:
        average: [n].
        parameters: [n], the newest.
        updates: t, the number of the update just made, from 1 on.
        newest_weight: The weight in the long run.

    Source: Bogoychev et al. 2018, the authors' public code.
    """
    average.lerp_(parameters, max(newest_weight, 1.0 - (updates + 1) / (updates + 10)))
