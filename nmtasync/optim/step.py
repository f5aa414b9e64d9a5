"""The optimizers that make an update of a slice of the flat vector, behind one interface.

Shapes: n is the length of the slice.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from nmtasync.config.schema import OptimizerConfig
from nmtasync.optim.adam import Adam
from nmtasync.optim.sgd import Sgd


class Step(Protocol):
    """An optimizer of one slice."""

    def update(
        self,
        gradient: Tensor,
        *,
        divisor: float,
        number: int,
        learning_rate: float,
        beta1: float,
        beta2: float,
        lead: float = 0.0,
    ) -> None:
        """Apply one gradient.

        Args:
            gradient: [n]; it may be overwritten.
            divisor: What the gradient is divided by, for example its target words.
            number: Which update this is, from 1 on.
            learning_rate: Size of the step.
            beta1: Decay of the first moment, where there is one.
            beta2: Decay of the second moment, where there is one.
            lead: How many updates ahead to look along the first moment, where there is one.
        """
        ...


def step_vectors(config: OptimizerConfig) -> list[str]:
    """Name the state vectors that the optimizer keeps, besides the parameters."""
    match config.name:
        case "sgd":
            return ["momentum"] if config.momentum > 0 else []
        case _:
            return ["first_moment", "second_moment"]


def build_step(config: OptimizerConfig, vectors: dict[str, Tensor]) -> Step:
    """Build the optimizer of one slice.

    Args:
        config: Which one.
        vectors: "parameters" [n] and what `step_vectors` names.
    """
    match config.name:
        case "sgd":
            return Sgd(
                vectors["parameters"], vectors.get("momentum"), config.momentum, config.nesterov
            )
        case _:
            return Adam(
                vectors["parameters"],
                vectors["first_moment"],
                vectors["second_moment"],
                config.epsilon,
                config.weight_decay,
            )
