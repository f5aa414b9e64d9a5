"""How fast a device multiplies matrices, which is what a network's speed is measured by."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

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
    return sum(
        least_seconds(partial(torch.mm, left, right), left.device, seconds)
        for left, right in products
    )


def least_seconds(
    compute: Callable[[], object], device: torch.device, seconds: float = _SECONDS
) -> float:
    """Measure the least time of something that a device computes.

    Args:
        compute: Has it computed.
        device: Where.
        seconds: For how long to repeat it, at least a few times.
    """
    _timed(compute, device)  # sets things up
    times = [_timed(compute, device)]
    while len(times) < _LEAST_REPEATS or sum(times) < seconds:
        times.append(_timed(compute, device))
    return min(times)


def _timed(compute: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    compute()
    torch.get_device_module(device).synchronize(device)
    return time.perf_counter() - start
