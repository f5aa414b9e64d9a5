"""Files that may come from strangers: read within bounds, and given the types that they must have.

What JSON holds is checked against the annotation of what it becomes, so that whatever is used has
the type that the code says: `typed(Validation, content)`. All refusals are `ValueError`s, in
words; who reads a file says in a `UserError` which file it is.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

MAX_DOCUMENT_BYTES = 64 << 20
"""The longest JSON or TOML document that is read; real ones have some kilobytes."""

MAX_INTEGER = (1 << 63) - 1
MAX_NUMBER = 1e100
"""So large a number may be squared, and multiplied by another, and is finite still."""

Integer = Annotated[int, -MAX_INTEGER]
"""A whole number that may be negative; a plain `int` may not."""

Positive = Annotated[int, 1]
"""A whole number from 1 on."""

Measured = Annotated[float, None]
"""What was computed, and may have come to infinity or no number; a plain `float` is finite."""

T = TypeVar("T")

_FRACTION = re.compile(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?")
_KEY = re.compile(r"[0-9]{1,18}")
_SHOWN_CHARACTERS = 60


def read_document(path: Path, most: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Read a whole file, if it is one, and no longer than a document may be.

    Args:
        path: The file.
        most: How many bytes it may have.

    Raises:
        OSError: It can't be read.
        ValueError: It is no regular file, whose reading may never end, or too long.
    """
    size = regular_size(path)
    if size > most:
        raise ValueError(f"it has {size:,} bytes, and {most:,} are the most")
    with path.open("rb") as file:
        return file.read(most)


def regular_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
        OSError: It can't be found.
        ValueError: It is a pipe, a device or a directory.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    return status.st_size


def parse_json(text: bytes) -> Any:
    """Parse a JSON document in UTF-8, with no key twice; NaN and Infinity are read as Python does.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("an object has a key twice")
    return result


def typed(kind: type[T], content: Any, name: str = "it") -> T:
    """Return what JSON holds as what it must be.

    Lists become tuples, objects dataclasses, texts fractions, and keys numbers, where `kind` says
    so. Numbers are finite, and whole ones not negative if they are not an `Integer`.

    Args:
        kind: A type, as annotations of fields have it.
        content: What JSON holds, or what will be written as it: keys may be numbers still.
        name: What an error calls it.

    Raises:
        ValueError: It is something else.
    """
    return cast("T", _typed(kind, content, name))


def _typed(kind: Any, content: Any, name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (other,) = (argument for argument in arguments if argument is not NoneType)
        return None if content is None else _typed(other, content, name)
    if is_dataclass(kind) and isinstance(content, dict):
        return _typed_dataclass(cast("type", kind), content, name)
    if origin in (tuple, list) and isinstance(content, list | tuple):
        return _typed_sequence(origin, arguments, content, name)
    if origin is dict and isinstance(content, dict):
        keys, values = arguments
        return {
            _typed_key(keys, key, name): _typed(values, value, f"{name}.{key}")
            for key, value in content.items()
        }
    if kind is Fraction:
        return _fraction(content, name)
    if not _is_one(kind, origin, arguments, content):
        raise ValueError(f"{name} can't be {shortened(repr(content))}")
    return content


def _is_one(kind: Any, origin: Any, arguments: tuple[Any, ...], content: Any) -> bool:
    """Whether something is of a kind that holds nothing else."""
    if kind in (int, float) or origin is Annotated:
        base, least = arguments or (kind, 0 if kind is int else -MAX_NUMBER)
        most = MAX_INTEGER if base is int else MAX_NUMBER
        is_number = type(content) is int or type(content) is base
        return is_number and (least is None or least <= content <= most)
    return kind is Any or type(content) is kind


def _fraction(content: Any, name: str) -> Fraction:
    if isinstance(content, str) and _FRACTION.fullmatch(content):
        numerator, _, denominator = content.partition("/")
        if int(denominator or 1):
            value = Fraction(int(numerator), int(denominator or 1))
            if abs(value) <= MAX_NUMBER:
                return value
    raise ValueError(f"{name} can't be {shortened(repr(content))}")


def _typed_dataclass(kind: type, content: dict[str, Any], name: str) -> Any:
    hints = _hints(kind)
    needed = {field.name for field in fields(kind) if _has_no_default(field)}
    for key in (*(content.keys() - hints.keys()), *(needed - content.keys())):
        what = "is not known" if key in content else "is missing"
        raise ValueError(f"{shortened(repr(key))} of {name} {what}")
    return kind(**{key: _typed(hints[key], value, key) for key, value in content.items()})


def _typed_sequence(
    origin: type, arguments: tuple[Any, ...], content: list[Any] | tuple[Any, ...], name: str
) -> tuple[Any, ...] | list[Any]:
    if origin is list or arguments[-1] is ...:
        items = (_typed(arguments[0], item, name) for item in content)
        return list(items) if origin is list else tuple(items)
    if len(arguments) != len(content):
        raise ValueError(f"{name} has {len(content)} items, not {len(arguments)}")
    return tuple(_typed(*pair, name) for pair in zip(arguments, content, strict=True))


def _typed_key(kind: Any, key: Any, name: str) -> Any:
    if type(key) is kind:  # a number, too, where a state never was a file
        return key
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"{shortened(repr(key))} of {name} is no number")
    return int(key)


def _has_no_default(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def shortened(text: str) -> str:
    """Cut a text that is too long for a line."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def number_of(name: str) -> int | None:
    """Return the number that a file's name or content writes as this toolkit does, or None."""
    is_plain = _KEY.fullmatch(name) and str(int(name)) == name
    return int(name) if is_plain else None


def leads_outside(path: Path, directory: Path) -> bool:
    """Whether a path comes to lie outside of a directory when links are followed."""
    return not path.resolve().is_relative_to(directory.resolve())


def is_inner_name(name: str) -> bool:
    """Whether a relative name stays inside of the directory that it is relative to."""
    parts = name.split("/")
    return not any(part in ("", os.curdir, os.pardir) for part in parts) and "\0" not in name
