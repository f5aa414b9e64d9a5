"""Sparse payloads: the values that are not zero, and where they belong, in a dense vector's place.

Shapes: P is the length of the parameter vector, K the number of values; 2 K <= P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nmtasync.server.wire import Wire


def pack(payload: Tensor, wire: Wire) -> int | None:
    """Rewrite a payload [P] of float32 as values, then places, if that is shorter on its way.

    Args:
        payload: Rewritten in place.
        wire: How many bytes values and places take.

    Returns:
        K, or None where the payload is left dense.
    """
    places = payload.nonzero().squeeze(1)
    size, count = payload.numel(), places.numel()
    if wire.shortest(size, count) < wire.num_bytes(size, count):
        return None
    values = payload[places]
    payload[:count] = values
    payload[count : 2 * count].view(torch.int32).copy_(places)
    return count


def unpack(payload: Tensor, count: int, dense: Tensor) -> Tensor:
    """Write a packed payload out.

    Args:
        payload: [P], of which 2 K elements are read.
        count: K.
        dense: [P], overwritten.

    Returns:
        `dense`.
    """
    places = payload[count : 2 * count].view(torch.int32)
    return dense.zero_().index_copy_(0, places.long(), payload[:count])


class Unpacker:
    """Writes packed payloads out, in room of its own on each device that they come from."""

    def __init__(self) -> None:
        self._room: dict[torch.device, Tensor] = {}

    def unpack(self, payload: Tensor, count: int) -> Tensor:
        """As the function; the result [P] lasts until the next one from the device."""
        if payload.device not in self._room:
            self._room[payload.device] = torch.empty_like(payload)
        return unpack(payload, count, self._room[payload.device])
