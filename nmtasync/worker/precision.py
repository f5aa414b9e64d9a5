"""`training.precision`: the type that the workers compute in, all of a run in the same.

Precision ends at the gradient: the network computes on a copy of the vector of that type, made in
one pass for each batch, and its gradient is added to the one in float32. Nothing else knows. A copy
of the whole, not autocast: one kernel instead of two for each matrix, and functions with gradients
of their own need no cases. Validation stays in float32, so that what is logged is what `evaluate`
finds. TF32 is off unless asked for: fp32 is what others are compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from nmtasync.config.schema import Config, ModelConfig
from nmtasync.machine.matrix_products import layer_seconds
from nmtasync.machine.precision import (
    MIN_SPEEDUP,
    NUMBER_TYPES,
    PrecisionChoice,
    cpu_flags,
    has_bf16_units,
)

_CPU_WORDS = 64
"""Words of the trial on a CPU; enough for its matrix units."""

_GPU_WORDS = 4096
"""The same on a GPU, while it is open how many a batch has."""

_SENTENCE_WORDS = 20
"""Of a batch's words so many are of one sentence. A recurrent network computes those of one step
together, a word of each sentence."""

Trial = Callable[[str, torch.dtype, int, int, int], float]
"""Measures matrix products; arguments and result as of `layer_seconds`."""


def compute_type(precision: str) -> torch.dtype:
    """The type that a precision names; "auto" is float32 as long as nothing has been tried."""
    return NUMBER_TYPES.get(precision, torch.float32)


def choose_precision(
    config: Config, trained: Config | None, device: str, trial: Trial = layer_seconds
) -> PrecisionChoice:
    """Decide what "auto" means, if that is asked for.

    Args:
        config: The experiment.
        trained: What the checkpoint to go on from was trained with, or None.
        device: Of the first worker; the others are taken to be alike.
        trial: Measures.
    """
    asked = config.training.precision
    if asked != "auto":
        return PrecisionChoice(asked, "as training.precision says")
    if trained is not None:
        return PrecisionChoice(compute_name(trained.training.precision), "as before")
    if device == "cpu" and not has_bf16_units(cpu_flags()):
        return PrecisionChoice("fp32", "this CPU has no units for bf16")
    shape = (_trial_rows(config, device), *layer_shape(config.model))
    ratio = trial(device, torch.float32, *shape) / trial(device, torch.bfloat16, *shape)
    return PrecisionChoice(
        "bf16" if ratio >= MIN_SPEEDUP else "fp32",
        f"bf16 computes a layer of {'x'.join(map(str, shape))} {ratio:.2g} times as fast as fp32",
    )


def _trial_rows(config: Config, device: str) -> int:
    """How many rows the products of the trial have: enough for a CPU, as in training on a GPU."""
    words, asked = _GPU_WORDS, config.data.batch_tokens
    if not isinstance(asked, str):
        words = asked
    rows = max(1, words // _SENTENCE_WORDS) if config.model.type == "rnn" else words
    return min(rows, _CPU_WORDS) if device == "cpu" else rows


def compute_name(precision: str) -> str:
    """Name what `compute_type` makes of a precision."""
    return precision if precision in NUMBER_TYPES else "fp32"


def with_precision(config: Config, precision: str) -> Config:
    """Return the config with what "auto" has come to."""
    training = dataclasses.replace(config.training, precision=precision)
    return dataclasses.replace(config, training=training)


def layer_shape(model: ModelConfig) -> tuple[int, int]:
    """Inputs and outputs of the model's typical large layer."""
    if model.type == "rnn":
        state = model.state_dimension or model.dimension
        return state, 3 * state
    return model.dimension, model.feed_forward or 4 * model.dimension
