"""Files of numpy arrays, written, and read from strangers: no size is believed, nothing is run."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from nmtasync.untrusted import regular_size, shortened

_MOST_ENTRIES = 100_000
_MOST_HEADER = 10_000
_GROWTH = 16
"""So many times the bytes of the file may come out of it: far more than parameters shrink by."""

_FLOATS = ("<f4", "<f2")


class NpzFile:
    """The arrays of a file, each read when it is asked for.

    Args:
        path: Where it is.

    Raises:
        OSError: It can't be read.
        ValueError: It is no file of arrays, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        most = _GROWTH * regular_size(path) + (1 << 16)
        with _explained(), zipfile.ZipFile(path) as file:
            entries = file.infolist()
        self.names = {entry.filename.removesuffix(".npy") for entry in entries}
        if len(entries) > _MOST_ENTRIES or len(self.names) < len(entries):
            raise ValueError("a name is there twice, or there are too many")
        if sum(entry.file_size for entry in entries) > most:
            raise ValueError("it would be very much larger than the file is")

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read floats, as float32.

        Args:
            name: Of the array.
            shape: What its shape must be.

        Raises:
            ValueError: It has another, or is not there, or is not finite.
        """
        array = self._read(name, shape, _FLOATS)
        tensor = torch.from_numpy(array.astype(np.float32, copy=True))
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{shortened(name)} has numbers that are none")
        return tensor

    def text(self, name: str) -> str:
        """Read a text that is kept as bytes with a zero after them.

        Raises:
            ValueError: There is none.
        """
        array = self._read(name, None, ("|i1", "|u1"))
        content: bytes = array.tobytes()
        return content.rstrip(b"\0").decode("utf-8")

    def _read(self, name: str, shape: tuple[int, ...] | None, kinds: tuple[str, ...]) -> Any:
        if name not in self.names:
            raise ValueError(f"{shortened(name)} is missing")
        with _explained(), zipfile.ZipFile(self.path) as file:
            entry = file.getinfo(f"{name}.npy")
            with file.open(entry) as content:
                there, dtype = _read_header(content, name)
                if dtype.str not in kinds:
                    raise ValueError(f"{shortened(name)} is of type {dtype.str}")
                if shape is not None and there != shape:
                    raise ValueError(
                        f"{shortened(name)} has shape {list(there)}, not {list(shape)}"
                    )
                size = math.prod(there) * dtype.itemsize
                if size > entry.file_size:
                    raise ValueError(f"{shortened(name)} is cut off")
                data = content.read(size)
        if len(data) != size:
            raise ValueError(f"{shortened(name)} is cut off")
        return np.frombuffer(data, dtype).reshape(there)


def _read_header(content: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read what an array is like."""
    version = npy.read_magic(content)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{shortened(name)} is of a version that is not known")
    shape, is_fortran, dtype = read(content, max_header_size=_MOST_HEADER)
    if is_fortran and len(shape) > 1:
        raise ValueError(f"{shortened(name)} is in another order")
    if any(size < 0 for size in shape):
        raise ValueError(f"{shortened(name)} has a size below 0")
    return shape, dtype


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what damaged archives raise into ValueErrors."""
    try:
        yield
    except _OF_LIBRARIES as error:
        raise ValueError(f"it is damaged: {shortened(str(error))}") from None


_OF_LIBRARIES = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # of unknown ways to pack
    RuntimeError,  # of encrypted entries
    EOFError,
    KeyError,
    OverflowError,
    TypeError,
    SyntaxError,
    IndexError,
)


def write_npz(path: Path, arrays: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write arrays of floats, and texts as `NpzFile.text` reads them."""
    content = {name: tensor.numpy() for name, tensor in arrays.items()}
    for name, text in texts.items():
        content[name] = np.frombuffer(text.encode("utf-8") + b"\0", np.int8)
    np.savez(path, **content)  # type: ignore[arg-type]
