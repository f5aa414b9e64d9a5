"""Parameters in files of strangers: seen by name and shape before any memory is taken for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nmtasync.checkpoints.load import MAX_HEADER_BYTES
from nmtasync.untrusted import regular_size, shortened

_FLOATS = ("F32", "F16", "BF16")


class TensorFile:
    """A file of safetensors, which stays open.

    Args:
        path: Where it is.

    Raises:
        OSError: It can't be read.
        ValueError: It is damaged, or holds something else than floats.

    Attributes:
        shapes: Of its tensors, by their names.
    """

    def __init__(self, path: Path) -> None:
        if regular_size(path) < 8:
            raise ValueError("it is too short")
        with path.open("rb") as start:
            header_bytes = int.from_bytes(start.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {header_bytes:,} bytes")
        try:
            file: Any = safe_open(path, framework="pt")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        self._file = file
        self.shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
        if other := {each.get_dtype() for each in slices.values()}.difference(_FLOATS):
            raise ValueError(f"it holds {sorted(other)[0]}, not floats of 16 or 32 bits")

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a tensor, as float32.

        Args:
            name: Its name.
            shape: What its shape must be.

        Raises:
            ValueError: It has another, or is not there, or is not finite.
        """
        if name not in self.shapes:
            raise ValueError(f"{shortened(name)} is missing")
        if self.shapes[name] != shape:
            raise ValueError(
                f"{shortened(name)} has shape {list(self.shapes[name])}, not {list(shape)}"
            )
        try:
            tensor: Tensor = self._file.get_tensor(name).to(torch.float32)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{shortened(name)} has numbers that are none")
        return tensor
