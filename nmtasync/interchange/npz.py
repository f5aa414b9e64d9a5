"""Files of numpy arrays, written, and read from strangers: no size is believed, nothing is run."""

from __future__ import annotations

import contextlib
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from nmtasync.untrusted import regular_size, shortened

_MOST_ENTRIES = 100_000
_GROWTH = 16
"""So many times the bytes of the file may come out of it: far more than parameters shrink by."""

_MOST_DIGITS = 18
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FLOATS = ("<f4", "<f2")
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][0-9]{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]{0,100})\),? ?\} *\n?"
)


class NpzFile:
    """The arrays of a file, which stays open, each read when it is asked for.

    Args:
        path: Where it is.

    Raises:
        OSError: It can't be read.
        ValueError: It is no file of arrays, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        most = _GROWTH * regular_size(path) + (1 << 16)
        with _explained():
            self._file = zipfile.ZipFile(path)
        entries = self._file.infolist()
        self.names = {entry.filename.removesuffix(".npy") for entry in entries}
        if any(entry.compress_type not in _PACKED for entry in entries):
            raise ValueError("it is packed in a way that numpy has not")
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
        array = self._read(name, None, ("|i1", "<i1", "|u1"))
        content: bytes = array.tobytes()
        return content.rstrip(b"\0").decode("utf-8")

    def _read(self, name: str, shape: tuple[int, ...] | None, kinds: tuple[str, ...]) -> Any:
        if name not in self.names:
            raise ValueError(f"{shortened(name)} is missing")
        with _explained(), self._file.open(f"{name}.npy") as content:
            there, dtype = _read_header(content, name)
            if dtype not in kinds:
                raise ValueError(f"{shortened(name)} is of type {dtype}")
            if shape is not None and there != shape:
                raise ValueError(f"{shortened(name)} has shape {list(there)}, not {list(shape)}")
            size = math.prod(there) * np.dtype(dtype).itemsize
            if size > self._file.getinfo(f"{name}.npy").file_size:
                raise ValueError(f"{shortened(name)} is cut off")
            data = content.read(size)
        if len(data) != size:
            raise ValueError(f"{shortened(name)} is cut off")
        return np.frombuffer(data, dtype).reshape(there)


def _read_header(content: IO[bytes], name: str) -> tuple[tuple[int, ...], str]:
    """Read what an array is like, by the words that numpy and Marian write, and no others.

    Source: numpy.lib.format, version 1.0 of npy files.
    """
    start = content.read(10)
    if start[:8] != b"\x93NUMPY\x01\x00" or len(start) < 10:
        raise ValueError(f"{shortened(name)} is no array of version 1.0")
    header = content.read(int.from_bytes(start[8:], "little"))
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError(f"{shortened(name)} has another header than those of numpy and Marian")
    sizes = found[3].replace(b",", b" ").split()
    if any(len(size) > _MOST_DIGITS for size in sizes):
        raise ValueError(f"{shortened(name)} has a size that is none")
    shape = tuple(map(int, sizes))
    if found[2] == b"True" and len(shape) > 1:
        raise ValueError(f"{shortened(name)} is in another order")
    return shape, found[1].decode("ascii")


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
    struct.error,
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
