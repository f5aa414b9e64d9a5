"""What a search does with rows of logits and of states.

Shapes: R rows, V target vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 64
"""So many logits are first compared among themselves: on a CPU, a maximum takes a tenth of the
time of `torch.topk`."""

_CACHE_BYTES = 1 << 20
"""What is passed over several times is passed over in parts that stay in a CPU's cache."""


def best_pieces(logits: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Find the highest logits of each row, as `torch.topk` does, the best first.

    They are in those groups of neighbours whose highest logits are the highest.

    Args:
        logits: Of each piece [R, V].
        number: How many, at most V.

    Returns:
        The logits and their pieces, each [R, number].
    """
    num_groups = logits.shape[1] // _GROUP
    if logits.device.type != "cpu" or num_groups <= 2 * number:
        return logits.topk(number, dim=1)
    whole = num_groups * _GROUP
    grouped = logits[:, :whole].view(-1, num_groups, _GROUP)
    best = grouped.amax(2).topk(number, dim=1).indices
    members = best.unsqueeze(2) * _GROUP + torch.arange(_GROUP)
    rest = torch.arange(whole, logits.shape[1]).expand(len(logits), -1)
    pieces = torch.cat((members.flatten(1), rest), dim=1)
    values, places = logits.gather(1, pieces).topk(number, dim=1)
    return values, pieces.gather(1, places)


def log_sum_exp(logits: Tensor) -> Tensor:
    """Compute the logarithm of the sum of exponentials of each row [R], in few passes."""
    if logits.device.type != "cpu":
        return logits.logsumexp(1)
    rows = max(1, _CACHE_BYTES // (logits.shape[1] * logits.element_size()))
    parts = []
    for part in torch.split(logits, rows):
        highest = part.amax(1, keepdim=True)
        parts.append((part - highest).exp_().sum(1).log_() + highest.squeeze(1))
    return torch.cat(parts)


def close_ranks(kept: list[int]) -> list[int]:
    """Order the rows that are kept so that few move: the last take the places of those that leave.

    Args:
        kept: Which rows, ascending.
    """
    number = len(kept)
    staying = {row for row in kept if row < number}
    moving = iter([row for row in kept if row >= number])
    return [row if row in staying else next(moving) for row in range(number)]
