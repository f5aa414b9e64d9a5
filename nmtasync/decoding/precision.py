"""`decoding.precision`: the type in which a network's linear layers multiply when it translates.

All else stays in float32: attention, recurrences, normalisation, and scores. So does all that
validates during training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from nmtasync.errors import UserError
from nmtasync.machine.matrix_products import least_seconds
from nmtasync.machine.precision import (
    MIN_SPEEDUP,
    PrecisionChoice,
    cpu_flags,
    has_bf16_units,
)
from nmtasync.models.narrow_linear import BFloat16Linear, Int8Linear, computes_int8
from nmtasync.models.sequence_to_sequence import SequenceToSequence

_TRIAL_ROWS = 128
_TYPES: dict[str, Callable[[Tensor, Tensor | None], nn.Module]] = {
    "bf16": BFloat16Linear,
    "int8": Int8Linear,
}


@torch.no_grad()
def choose_precision(asked: str, model: SequenceToSequence) -> PrecisionChoice:
    """Decide what "auto" means, if that is asked for, by trying the output projection.

    Args:
        asked: As of `decoding.precision`.
        model: The network, on its device.

    Raises:
        UserError: What is asked for can't be computed there.
    """
    weight, bias = model.embeddings.output_weight, model.embeddings.output_bias
    if asked == "int8" and asked not in _possible(weight.device):
        raise UserError(
            "int8 can't be computed exactly here",
            where="decoding.precision",
            remedy="it needs a CPU with VNNI and PyTorch's oneDNN; take fp32, bf16 or auto",
        )
    if asked != "auto":
        return PrecisionChoice(asked, "as decoding.precision says")
    rows = torch.randn(_TRIAL_ROWS, weight.shape[1], device=weight.device)
    as_it_is = _seconds(model.logits, rows)
    speedups = {
        name: as_it_is / _seconds(_TYPES[name](weight, bias), rows)
        for name in _possible(weight.device)
    }
    best = max(speedups, key=speedups.__getitem__, default="fp32")
    if speedups.get(best, 0.0) < MIN_SPEEDUP:
        return PrecisionChoice("fp32", "no other type is faster here")
    times = f"{speedups[best]:.2g} times as fast as fp32"
    return PrecisionChoice(best, f"it computes the output projection {times}")


@torch.no_grad()
def reduce_precision(model: SequenceToSequence, precision: str) -> None:
    """Let a network compute its linear layers in a narrow type; it can't be trained any more.

    Layers whose products are normalised or made step after step, as within recurrences, stay.

    Args:
        model: The network, on its device.
        precision: As of `decoding.precision`, but not "auto".
    """
    if precision == "fp32":
        return
    build = _TYPES[precision]
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if type(part) is nn.Linear:
                setattr(module, name, build(part.weight, part.bias))
    embeddings = model.embeddings
    model.output_projection = build(embeddings.output_weight, embeddings.output_bias)


def _possible(device: torch.device) -> list[str]:
    """The narrow types that can win on a device."""
    if device.type != "cpu":
        return ["bf16"]
    possible = ["int8"] if computes_int8() else []
    return [*possible, "bf16"] if has_bf16_units(cpu_flags()) else possible


def _seconds(project: Callable[[Tensor], Tensor], rows: Tensor) -> float:
    """Measure a projection of rows."""
    return least_seconds(partial(project, rows), rows.device)
