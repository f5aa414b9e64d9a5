"""What a search does with rows, against PyTorch's own functions."""

from __future__ import annotations

import pytest
import torch

from nmtasync.decoding.rows import best_pieces, close_ranks, log_sum_exp


@pytest.mark.parametrize("size", [13, 640, 703, 8000])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_the_best_pieces_are_those_of_topk(size: int, number: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(7, size, generator=generator)
    logits[0, :3] = float("-inf")
    logits[1, -1] = 99.0  # beyond the last whole group
    logits[2] = float("-inf")
    logits[2, 5] = 0.0  # all others are forbidden
    logits[3, 64:80] += 50.0  # all in one group
    values, pieces = best_pieces(logits, number)
    torch.testing.assert_close(values, logits.topk(number, dim=1).values, rtol=0, atol=0)
    assert torch.equal(values, logits.gather(1, pieces))
    assert all(len(set(row)) == number for row in pieces.tolist())


def test_the_sum_of_exponentials_neither_overflows_nor_vanishes() -> None:
    logits = torch.randn(3, 50) * 5 + torch.tensor([[0.0], [1000.0], [-1000.0]])
    torch.testing.assert_close(log_sum_exp(logits), logits.logsumexp(1))


def test_few_rows_move_where_others_leave() -> None:
    assert close_ranks([0, 1, 2]) == [0, 1, 2]
    assert close_ranks([0, 2, 5, 6]) == [0, 5, 2, 6]
    assert close_ranks([7]) == [7]
    assert close_ranks([]) == []
