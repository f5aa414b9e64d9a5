"""What travels between hosts: vectors as bytes, packed on one side and unpacked on the other.

They have been rounded to what `asynchronous.exchange_precision` names, so this loses nothing.

Shapes: P is the length of the parameter vector, K the number of values of a sparse payload.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from nmtasync.server.wire import Wire

Payload = npt.NDArray[Any]
"""Bytes that Ray copies: to its store of objects, and from there to that of the other node."""


def pack(wire: Wire, vector: Tensor, num_values: int | None = None) -> Payload:
    """Pack a vector [P], or of a sparse payload the K values and their places."""
    return wire.pack(vector, num_values).cpu().numpy()


def unpack(wire: Wire, payload: Payload, vector: Tensor, num_values: int | None = None) -> None:
    """Write what `pack` returned to a vector [P]; arguments as there."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        packed = torch.from_numpy(payload)  # it can't be written, and torch knows no such thing
    wire.unpack(packed.to(vector.device), vector, num_values)
