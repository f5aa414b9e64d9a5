"""One update of a slice of the parameters: how large it is, and which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """What an optimizer is told beside the gradient; without moments it needs no betas and lead.

    Attributes:
        number: Which update this is, from 1 on; for the bias correction of the moments.
        divisor: What the gradient is divided by, for example its target words.
        learning_rate: Size of the step.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        lead: How many updates ahead to look along the first moment.
    """

    number: int
    divisor: float
    learning_rate: float
    beta1: float
    beta2: float
    lead: float = 0.0
