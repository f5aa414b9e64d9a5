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


class SliceOptimizer(Protocol):
    """An optimizer of one slice."""

    def update(
        self,
        gradient: Tensor,
        *,
        divisor: float,
        update_number: int,
        learning_rate: float,
        beta1: float,
        beta2: float,
        lead: float = 0.0,
    ) -> None:
        """Apply one gradient.

        Args:
            gradient: [n]; it may be overwritten.
            divisor: What the gradient is divided by, for example its target words.
            update_number: Which update this is, from 1 on.
            learning_rate: Size of the step.
            beta1: Decay of the first moment, where there is one.
            beta2: Decay of the second moment, where there is one.
            lead: How many updates ahead to look along the first moment, where there is one.
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
