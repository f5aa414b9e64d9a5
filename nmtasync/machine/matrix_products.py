"""How fast a device multiplies matrices, which is what a network's speed is measured by."""

from __future__ import annotations

import time

import torch
from torch import Tensor

_SECONDS = 0.02
_LEAST_REPEATS = 3
"""One alone may have been interrupted by another process."""


def layer_seconds(
    device: str, dtype: torch.dtype, rows: int, inputs: int, outputs: int, seconds: float = _SECONDS
) -> float:
    """Measure the matrix products of a linear layer, forward and backward.

    Each of the three takes 2 * rows * inputs * outputs floating-point operations.

    Args:
        device: Where.
        dtype: Of all matrices.
        rows: Of the layer's input [rows, inputs]: the words of a batch.
        inputs: Width of the layer's input.
        outputs: Width of its output.
        seconds: For how long to repeat each product, at least a few times.

    Returns:
        The sum of the least times of the three products, in seconds.
    """
    generator = torch.Generator(device)  # its own, which leaves the numbers of training alone

    def matrix(height: int, width: int) -> Tensor:
        return torch.randn(height, width, device=device, generator=generator).to(dtype)

    x, weight, by_output = matrix(rows, inputs), matrix(outputs, inputs), matrix(rows, outputs)
    products = ((x, weight.t()), (by_output, weight), (by_output.t(), x))
    return sum(_least_seconds(left, right, seconds) for left, right in products)


def _least_seconds(left: Tensor, right: Tensor, seconds: float) -> float:
    _timed(left, right)  # sets things up
    times = [_timed(left, right)]
    while len(times) < _LEAST_REPEATS or sum(times) < seconds:
        times.append(_timed(left, right))
    return min(times)


def _timed(left: Tensor, right: Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    torch.get_device_module(left.device).synchronize(left.device)
    return time.perf_counter() - start
