"""What a search does with rows, against PyTorch's own functions."""

from __future__ import annotations

import pytest
import torch

from nmtasync.decoding.rows import best_continuations, close_ranks, log_sum_exp


@pytest.mark.parametrize("size", [13, 640, 703, 8000])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_the_best_continuations_are_those_of_topk_over_all(size: int, number: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(8, size, generator=generator)
    logits[0, :3] = float("-inf")
    logits[1, -1] = 99.0  # beyond the last whole group
    logits[4] = float("-inf")
    logits[4, 5] = 0.0  # all others are forbidden
    logits[6, 64:80] += 50.0  # all in one group
    offsets = torch.randn(4, 2, generator=generator, dtype=torch.float64) * 3
    offsets[1, 0] = float("-inf")  # a slot without a hypothesis
    sums, places = best_continuations(logits, offsets, number)
    every = (logits.view(4, 2, -1) + offsets[:, :, None]).flatten(1)
    torch.testing.assert_close(sums, every.topk(number, dim=1).values, rtol=0, atol=0)
    assert torch.equal(sums, every.gather(1, places))
    assert all(len(set(row)) == number for row in places.tolist())


def test_the_sum_of_exponentials_neither_overflows_nor_vanishes() -> None:
    logits = torch.randn(3, 50) * 5 + torch.tensor([[0.0], [1000.0], [-1000.0]])
    torch.testing.assert_close(log_sum_exp(logits), logits.logsumexp(1))
    alone = torch.cat([log_sum_exp(row) for row in torch.split(logits, 1)])
    assert torch.equal(log_sum_exp(logits), alone), "a row depends on others"


def test_few_rows_move_where_others_leave() -> None:
    assert close_ranks([0, 1, 2]) == [0, 1, 2]
    assert close_ranks([0, 2, 5, 6]) == [0, 5, 2, 6]
    assert close_ranks([7]) == [7]
    assert close_ranks([]) == []
