"""What a search does with rows of logits and of states.

Shapes: R rows, V target vocabulary; N sentences with K hypotheses each.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 64
"""So many logits are first compared among themselves: on a CPU, a maximum takes a tenth of the
time of `torch.topk`."""

_CACHE_BYTES = 1 << 19
"""What is passed over several times is passed over in parts that stay in a CPU's cache."""

_LEAST = 1e-20
"""Sums of exponentials between this and its inverse are exact though no maximum is subtracted."""


def best_continuations(logits: Tensor, offsets: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Find the highest sums of a logit and its hypothesis' offset, of each sentence.

    On a CPU they are looked for in those groups of neighbours whose highest sums are the highest.

    Args:
        logits: Of each piece after each hypothesis [N * K, V].
        offsets: Of each hypothesis [N, K], in float64.
        number: How many, at most K * V.

    Returns:
        The sums, the best first, and their places among the K * V of a sentence, each
        [N, number].
    """
    sentences, size = len(offsets), logits.shape[1]
    num_groups = size // _GROUP
    if logits.device.type != "cpu" or num_groups <= 2 * number:
        values, pieces = logits.topk(min(number, size), dim=1)
        starts = size * torch.arange(offsets.shape[1], device=logits.device)
        totals = (values.view(*offsets.shape, -1) + offsets.unsqueeze(2)).flatten(1)
        places = (pieces.view(*offsets.shape, -1) + starts[:, None]).flatten(1)
    else:
        places = _promising(logits, offsets, number)
        values = logits.view(sentences, -1).gather(1, places)
        totals = values + offsets.gather(1, places // size)
    best, where = totals.topk(number, dim=1)
    return best, places.gather(1, where)


def _promising(logits: Tensor, offsets: Tensor, number: int) -> Tensor:
    """Find the places of all pieces of the best groups, and of those that are in no group."""
    sentences, hypotheses = offsets.shape
    size = logits.shape[1]
    num_groups = size // _GROUP
    whole = num_groups * _GROUP
    highest = logits[:, :whole].view(sentences, hypotheses, num_groups, _GROUP).amax(3)
    groups = (highest + offsets.unsqueeze(2)).flatten(1).topk(number, dim=1).indices
    starts = groups // num_groups * size + groups % num_groups * _GROUP
    places = (starts.unsqueeze(2) + torch.arange(_GROUP)).flatten(1)
    if whole == size:
        return places
    rest = size * torch.arange(hypotheses)[:, None] + torch.arange(whole, size)
    return torch.cat((places, rest.flatten().expand(sentences, -1)), dim=1)


def log_sum_exp(logits: Tensor) -> Tensor:
    """Compute the logarithm of the sum of exponentials of each row [R], in few passes."""
    if logits.device.type != "cpu":
        return logits.logsumexp(1)
    rows = max(1, _CACHE_BYTES // (logits.shape[1] * logits.element_size()))
    sums, room = torch.empty_like(logits[:, 0]), torch.empty_like(logits[:rows])
    for part, total in zip(torch.split(logits, rows), torch.split(sums, rows), strict=True):
        torch.sum(torch.exp(part, out=room[: len(part)]), 1, out=total)
    exact = (sums > _LEAST) & (sums < 1 / _LEAST)
    if bool(exact.all()):
        return sums.log_()
    return torch.where(exact, sums.log(), logits.logsumexp(1))  # a row depends on no other


def close_ranks(kept: list[int]) -> list[int]:
    """Order the rows that are kept so that few move: the last take the places of those that leave.

    Args:
        kept: Which rows, ascending.
    """
    number = len(kept)
    staying = {row for row in kept if row < number}
    moving = iter([row for row in kept if row >= number])
    return [row if row in staying else next(moving) for row in range(number)]
