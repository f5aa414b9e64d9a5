"""Options of the section `optimizer`."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.option import has, lacks, option
from nmtasync.config.sections.asynchronous import ADAM, LOCAL_ADAM, OPTIMIZER

_SGD = has("optimizer.name", "sgd")
_FIXED_BETAS = (*ADAM, has("optimizer.beta_points", None))


@dataclass(frozen=True)
class OptimizerConfig:
    """How a shard turns a gradient into an update."""

    name: str = option(
        "adam",
        "Adam, AdamW (with weight_decay), or stochastic gradient descent with momentum.",
        choices=("adam", "adamw", "sgd"),
        only_if=OPTIMIZER,
    )
    beta1: float = option(
        0.9,
        "Adam: decay of the first moment.",
        minimum=0.0,
        maximum=0.99999,
        only_if=_FIXED_BETAS,
    )
    beta2: float = option(
        0.98,
        "Adam: decay of the second moment.",
        minimum=0.0,
        maximum=0.999999,
        only_if=_FIXED_BETAS,
    )
    beta_points: str | None = option(
        None,
        "Adam: let the betas change, instead of beta1 and beta2: points UPDATE:BETA1:BETA2 with "
        "commas between them. They go from point to point linearly, after a point that ends in "
        "'!' in a step: 1:0.9:0.999!,4000:0.92:0.998.",
        unit="updates",
        only_if=ADAM,
    )
    betas_by_words: bool = option(
        False,
        "Adam: let the moments forget by target words, not by updates. The betas are then meant "
        "for an update of schedule.reference_words; one of w words takes them to the power of w "
        "over those. With schedule.words_scaling = sqrt, small updates then train as large ones.",
        only_if=ADAM,
    )
    weight_decay: float = option(
        0.0,
        "AdamW: shrink the parameters by this share times the learning rate at each update.",
        minimum=0.0,
        maximum=1.0,
        only_if=(has("optimizer.name", "adamw"),),
    )
    momentum: float = option(
        0.9,
        "SGD: decay of the velocity.",
        minimum=0.0,
        maximum=0.99999,
        only_if=(_SGD,),
    )
    nesterov: bool = option(True, "SGD: Nesterov's momentum.", only_if=(_SGD,))
    epsilon: float = option(
        1e-9,
        "Adam: added to the denominator, which is 0 for parameters without a gradient yet.",
        above=0.0,
        only_if=(lacks("optimizer.name", "sgd") | LOCAL_ADAM,),
    )
    clip_norm: float | None = option(
        1.0,
        "Clip the gradient per target word to this global norm, on the worker; 'none' is off.",
        above=0.0,
    )
    smoothing: float | None = option(
        1e-4,
        "Moving average of the parameters: its weight for the newest, at the least; validation "
        "and saved models use the average; 'none' is off.",
        minimum=0.0,
        maximum=1.0,
    )
