"""The optimizers that make an update of a slice of the flat vector, behind one interface.

Shapes: n is the length of the slice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from nmtasync.config.schema import OptimizerConfig
from nmtasync.optim.adam import Adam
from nmtasync.optim.sgd import Sgd
from nmtasync.optim.update import Update


class SliceOptimizer(Protocol):
    """An optimizer of one slice."""

    def update(self, gradient: Tensor, update: Update) -> None:
        """Apply one gradient.

        Args:
            gradient: [n]; it may be overwritten.
            update: Its size.
        """
        ...


def build_slice_optimizer(
    config: OptimizerConfig, vector: Callable[[str], Tensor]
) -> SliceOptimizer:
    """Build the optimizer of one slice.

    Args:
        config: Which one.
        vector: Returns the slice [n] of "parameters" or, by its name, of a vector of the
            optimizer's own, zero at first.
    """
    match config.name:
        case "sgd":
            velocity = vector("momentum") if config.momentum > 0 else None
            return Sgd(vector("parameters"), velocity, config.momentum, config.nesterov)
        case _:
            return Adam(
                vector("parameters"),
                vector("first_moment"),
                vector("second_moment"),
                config.epsilon,
                config.weight_decay,
            )
