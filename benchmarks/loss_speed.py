"""The loss with its output projection, forwards and backwards, and PyTorch's own by turns.

The peer is `torch.nn.functional.linear_cross_entropy`, which PyTorch has from 2.13 on. With label
smoothing it holds all logits; without, it can cut them into chunks as ours does. It returns one
number, ours the plain cross-entropy besides the smoothed one. Values and gradients are compared
before anything is timed.

    python benchmarks/loss_speed.py --threads 1 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import describe
from torch import Tensor

from nmtasync.models.loss import smoothed_cross_entropy

Loss = Callable[[list[Tensor], Tensor, float], Tensor]


def ours(parts: list[Tensor], target: Tensor, smoothing: float) -> Tensor:
    """Sum the loss as training does."""
    outputs, weight, bias = parts
    return smoothed_cross_entropy(outputs, weight, bias, target, smoothing)[0]


def peer(parts: list[Tensor], target: Tensor, smoothing: float, options: Any = None) -> Tensor:
    """Sum PyTorch's own; with all logits at once if there are no options."""
    outputs, weight, bias = parts
    total: Tensor = F.linear_cross_entropy(
        outputs,
        weight,
        target,
        linear_bias=bias,
        reduction="sum",
        label_smoothing=smoothing,
        options=options,
    )
    return total


def peer_in_chunks(parts: list[Tensor], target: Tensor, smoothing: float) -> Tensor:
    """Sum PyTorch's own, with logits in chunks of its choice."""
    return peer(parts, target, smoothing, torch.nn.LinearCrossEntropyOptions())


def measure(
    parts: list[Tensor],
    target: Tensor,
    smoothing: float,
    candidates: dict[str, Loss],
    repeats: int,
) -> None:
    """Compare values and gradients, time by turns and print a row for each candidate."""

    def compute(loss: Loss) -> tuple[Tensor, ...]:
        total = loss(parts, target, smoothing)
        return total.detach(), *torch.autograd.grad(total, parts)

    expected = compute(ours)
    for loss in candidates.values():
        torch.testing.assert_close(compute(loss), expected, rtol=1e-3, atol=1e-3)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, loss in candidates.items():
            start = time.perf_counter()
            compute(loss)
            seconds[name].append(time.perf_counter() - start)
    baseline = statistics.median(seconds["ours"])
    for name, values in seconds.items():
        figures = describe([1000 * value for value in values])
        ratio = statistics.median(values) / baseline
        threads = torch.get_num_threads()
        print(f"{threads:<8} {smoothing:<10} {name:16} {figures:22} {ratio:.2f}", flush=True)


def main() -> None:
    """Measure with each number of threads and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    torch.manual_seed(1)
    shapes = (arguments.words, arguments.vocabulary)
    parts = [torch.randn(size, arguments.dimension, requires_grad=True) for size in shapes]
    parts[1].data /= arguments.dimension**0.5
    parts.append(torch.randn(arguments.vocabulary, requires_grad=True))
    target = torch.randint(arguments.vocabulary, (arguments.words,))
    print(f"{'threads':8} {'smoothing':10} {'':16} {'milliseconds':22} times ours")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        measure(parts, target, 0.1, {"ours": ours, "peer": peer}, arguments.repeats)
        all_of_them = {"ours": ours, "peer": peer, "peer in chunks": peer_in_chunks}
        measure(parts, target, 0.0, all_of_them, arguments.repeats)


if __name__ == "__main__":
    main()
