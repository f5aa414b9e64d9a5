"""Attention on a CPU: PyTorch's fused kernel against two matrix products with a softmax between.

In bf16 training takes the products, in float32 the kernel.

Forward and backward, with the copies that bring heads to the front and back, on one thread; with
and without dropout of the weights. The ways take turns. Times are those that the processor worked;
medians of all turns.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtasync.models.attention import attend_by_products, attention_bias, join_heads

HEADS, WIDTH = 4, 64
SHAPES = ((80, 15), (40, 30), (30, 40), (8, 150))


def fused(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Let PyTorch choose its kernel, as the networks do."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=dropout)


def products(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Compute the weights as a tensor, and drop some with our own mask."""
    return attend_by_products(queries, keys, values, bias, dropout, causal=False)


def main() -> None:
    """Measure several shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--bf16", action="store_true", help="instead of float32")
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    torch.set_num_threads(1)
    print(f"{'sentences x pieces':20}{'dropout':10}{'fused':>10}{'products':>10}   ms")
    for batch, length in SHAPES:
        x = torch.randn(batch, length, 3 * HEADS * WIDTH, dtype=dtype, requires_grad=True)
        lengths = torch.randint(math.ceil(length / 2), length + 1, (batch, 1))
        bias = attention_bias(torch.arange(length) < lengths, x.dtype)
        for dropout in (0.0, 0.1):
            times: dict[str, list[float]] = {"fused": [], "products": []}
            for _ in range(arguments.turns):
                for way in (fused, products):
                    start = time.process_time()
                    heads = x.view(batch, length, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
                    queries, keys, values = heads.unbind(0)
                    attended = join_heads(way(queries, keys, values, bias, dropout))
                    attended.sum().backward()  # type: ignore[no-untyped-call]
                    times[way.__name__].append(time.process_time() - start)
            medians = [1000 * statistics.median(seconds) for seconds in times.values()]
            row = f"{medians[0]:10.1f}{medians[1]:10.1f}"
            print(f"{f'{batch} x {length}':20}{dropout:<10}{row}")


if __name__ == "__main__":
    main()
