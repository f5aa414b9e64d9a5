"""Options of the section `optimizer`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import has, lacks, option
from nmtasync.config.sections.asynchronous import ADAM, LOCAL_ADAM, OPTIMIZER

_of_adam = partial(option, only_if=ADAM)
_beta = partial(option, minimum=0.0, only_if=(*ADAM, has("optimizer.beta_points", None)))
_of_sgd = partial(option, only_if=(has("optimizer.name", "sgd"),))


@dataclass(frozen=True)
class OptimizerConfig:
    """How a shard turns a gradient into an update."""

    name: str = option(
        "adam",
        "Adam, AdamW (with weight_decay), or stochastic gradient descent with momentum.",
        choices=("adam", "adamw", "sgd"),
        only_if=OPTIMIZER,
    )
    beta1: float | str = _beta(
        "auto",
        "Adam: decay of the first moment. 'auto' is 0.9 where no push is late, and where pushes "
        "are s updates late it forgets more slowly, by the root of 1 + s. With betas_by_words it "
        "is 0.9 for reference_words.",
        maximum=0.99999,
        choices=("auto",),
    )
    beta2: float | str = _beta(
        "auto",
        "Adam: decay of the second moment. 'auto' is as of beta1, from 0.98.",
        maximum=0.999999,
        choices=("auto",),
    )
    beta_points: str | None = _of_adam(
        None,
        "Adam: let the betas change, instead of beta1 and beta2: points UPDATE:BETA1:BETA2 with "
        "commas between them. They go from point to point linearly, after a point that ends in "
        "'!' in a step: 1:0.9:0.999!,4000:0.92:0.998.",
        unit="updates",
    )
    betas_by_words: bool = _of_adam(
        False,
        "Adam: let the moments forget by target words, not by updates. The betas are then meant "
        "for an update of schedule.reference_words; one of w words takes them to the power of w "
        "over those. With schedule.words_scaling = sqrt, small updates then train as large ones.",
    )
    weight_decay: float = option(
        0.0,
        "AdamW: shrink the parameters by this share times the learning rate at each update.",
        minimum=0.0,
        maximum=1.0,
        only_if=(has("optimizer.name", "adamw"),),
    )
    momentum: float = _of_sgd(
        0.9,
        "SGD: decay of the velocity.",
        minimum=0.0,
        maximum=0.99999,
    )
    nesterov: bool = _of_sgd(True, "SGD: Nesterov's momentum.")
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
