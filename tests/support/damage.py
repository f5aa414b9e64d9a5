"""Valid files damaged at random, by accident or by malice; the same generator, the same damage."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

_WORDS = """
-1 0 1 2 7 255 65536 2147483648 4294967295 9223372036854775807 9223372036854775808 100000000
18446744073709551616 1000000000000 0.5 -0.0 1e-320 1e308 1e999 -1e999 NaN Infinity -Infinity
null true "x" "1/0" [] {} 0x10 1_000
"""
NUMBERS = [*_WORDS.split(), "9" * 400, "9" * 5000]
VALUES: list[Any] = [None, True, False, [], {}, [[]], [1, 2], {"a": 1}]
VALUES += ["", "x", "-1", "1/0", "1/3", "9" * 5000, "../../x", "/dev/zero", "\x1b[2J", "\x00"]
VALUES += ["\udc80", "\u00e9" * 300]
VALUES += [-1, 0, 1, 2, 3, 100_000_000, 10**12, 2**31, 2**63, 2**64, 10**400]
VALUES += [0.5, -0.0, 1e-320, 1e99, 1e308, float("inf"), float("-inf"), float("nan")]
INTEGERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63]
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?")

Damage = Callable[[bytes, random.Random], bytes]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Damage the content of a file in one place, or in a few."""
    kinds = BYTES
    if content[:1] in (b"{", b"["):
        kinds = BYTES + 4 * JSON
    elif content[:2] == b"PK":
        kinds = BYTES + 4 * [_member]
    elif content[8:9] == b"{":
        kinds = BYTES + 3 * [_header]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(kinds)(content, rng)
    return content


def _member(content: bytes, rng: random.Random) -> bytes:
    """Damage one file of an archive, whose checksums are right again afterwards."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = {name: file.read(name) for name in file.namelist()}
    except Exception:  # an earlier damage has hit it
        return content
    name, kept = rng.choice(list(members)), rng.random() < 0.9
    inner = members[name]
    header = inner[:128] if inner.startswith(b"\x93NUMPY") else inner
    head = rng.choice(BYTES)(header, rng)
    members[name] = head + inner[len(header) :] if rng.random() < 0.7 else damaged(inner, rng)
    if not kept:
        del members[name]
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", rng.choice((0, 8))) as file:
        for each, data in members.items():
            file.writestr(each, data)
    return result.getvalue()


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _splice(content: bytes, rng: random.Random) -> bytes:
    """Put one stretch in the place of another."""
    a, b, c, d = sorted(rng.randrange(len(content) + 1) for _ in range(4))
    return rng.choice(
        (content[:a] + content[c:], content[:b] + content[a:], content[:a] + content[c:d])
    )


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    new = rng.choice((rng.randbytes(rng.choice((1, 8, 300))), b"\n", b"\0", b"[" * 5000, b"\xff"))
    return content[:at] + new + content[at:]


def _integer(content: bytes, rng: random.Random) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(content) - width + 1))
    number = (rng.choice(INTEGERS) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    return content[:at] + number.to_bytes(width, "little") + content[at + width :]


def _number(content: bytes, rng: random.Random) -> bytes:
    places = list(_NUMBER.finditer(content[: 1 << 16]))
    if not places:
        return _flip(content, rng)
    place = rng.choice(places)
    return content[: place.start()] + rng.choice(NUMBERS).encode() + content[place.end() :]


BYTES: list[Damage] = [_flip, _truncate, _splice, _insert, _integer, _number]


def _line(content: bytes, rng: random.Random) -> bytes:
    """Change the value somewhere in a document of JSON, or in a line of one a line."""
    try:
        return with_other_value(content, rng, rng.choice(VALUES))
    except (ValueError, RecursionError):
        pass
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        lines[at] = with_other_value(lines[at], rng, rng.choice(VALUES)).replace(b"\n", b"")
    except (ValueError, RecursionError):
        del lines[at]
    return b"\n".join(lines)


def with_other_value(content: bytes, rng: random.Random, value: Any) -> bytes:
    """Put a value in some place of a document of JSON; raise `ValueError` if it is none."""
    document = json.loads(content)
    places = list(_places(document))
    if not places:
        return json.dumps(value).encode()
    container, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del container[key]
        case 1:
            other, name = rng.choice(places)
            container[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else value
        case 2 if isinstance(container, dict):
            container[rng.choice(("x", "0", "-1", "__class__", "format"))] = value
        case _:
            container[key] = value
    return json.dumps(document, ensure_ascii=True).encode()


def _keys(container: Any) -> Any:
    return container.keys() if isinstance(container, dict) else range(len(container))


def _places(document: Any) -> Any:
    keys = _keys(document) if isinstance(document, dict | list) else ()
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _twice(content: bytes, rng: random.Random) -> bytes:
    """Have a key twice."""
    at = content.find(b"{") + 1
    end = min((e for e in (content.find(b",", at), content.find(b"}", at)) if e > 0), default=at)
    return content[:at] + content[at:end] + b"," + content[at:]


JSON: list[Damage] = [_line, _line, _line, _number, _twice]


def _header(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a file of tensors, and say how long it is now, truly or not."""
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    header = rng.choice(JSON)(header, rng)
    length = len(header) if rng.random() < 0.9 else rng.choice(INTEGERS)
    if rng.random() < 0.1:
        rest = _splice(rest, rng)
    return length.to_bytes(8, "little") + header + rest
