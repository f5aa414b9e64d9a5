"""What travels between hosts: vectors, packed on one side and unpacked on the other.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from nmtasync.server.messages import Push

Payload = npt.NDArray[Any]
"""What Ray copies: to its store of objects, and from there to that of the other node."""


def pack_parameters(parameters: Tensor) -> Payload:
    """Pack the parameters [P] that a worker is handed."""
    return parameters.cpu().numpy()


def unpack_parameters(payload: Payload, landing: Tensor) -> None:
    """Write packed parameters to the landing buffer [P] of a worker."""
    landing.copy_(_as_tensor(payload))


def pack_push(push: Push, mailbox: Tensor) -> Payload:
    """Pack the payload [P] of a push; of a sparse one only what it has."""
    used = mailbox if push.num_values is None else mailbox[: 2 * push.num_values]
    return used.cpu().numpy()


def unpack_push(payload: Payload, mailbox: Tensor) -> None:
    """Write a packed push to the mailbox [P] that the server reads."""
    mailbox[: payload.size].copy_(_as_tensor(payload))


def _as_tensor(payload: Payload) -> Tensor:
    """See a payload, which can't be written, as a tensor, which must not be."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return torch.from_numpy(payload)
