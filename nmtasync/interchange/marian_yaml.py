"""The YAML that Marian writes: options of a network, and vocabularies.

Read is just that: a key and a value a line, and lists of values; no anchors, no nesting. So a file
can't ask for more than its size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nmtasync.interchange.renumber import by_number
from nmtasync.untrusted import shortened

Options = dict[str, str | list[str]]
"""What a file says, as text."""

_KEY = re.compile(r"([A-Za-z][A-Za-z0-9-]*):(?: (.*))?")
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_SPECIAL = {"0": "\0", "t": "\t", "n": "\n", "r": "\r", "e": "\x1b", "a": "\a", "b": "\b"}
_MOST_DIGITS = 9


def parse_options(text: str) -> Options:
    """Read options.

    Raises:
        ValueError: A line is none of Marian's.
    """
    options: Options = {}
    last = ""
    for line in text.splitlines():
        entry, found = line.strip(), _KEY.fullmatch(line.rstrip())
        if found:
            last = found[1]
            options[last] = _scalar(found[2] or "")
        elif entry.startswith("- ") and last and isinstance(options[last] or [], list):
            options[last] = [*(options[last] or []), _scalar(entry[2:])]
        elif entry == "[]" and last:
            options[last] = []
        elif entry and not entry.startswith("#"):
            raise ValueError(f"the line {shortened(repr(entry))} is none of Marian's")
    return options


def spell_options(options: Mapping[str, object]) -> str:
    """Write options as `parse_options` and Marian read them."""
    lines = []
    for key, value in options.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"  - {_spelled(item)}" for item in value)]
            lines += [] if value else ["  []"]
        else:
            lines.append(f"{key}: {_spelled(value)}")
    return "\n".join(lines) + "\n"


def parse_vocabulary(text: str) -> list[str]:
    """Read the pieces of a vocabulary, in the order of their numbers.

    Raises:
        ValueError: A line is none of Marian's, or the numbers are not those from 0 on.
    """
    numbers: dict[str, int] = {}
    key = None
    for line in (each.rstrip("\r") for each in text.split("\n")):
        if line.startswith("? "):  # a long key, whose number is on the next line
            key = line[2:]
            continue
        if key is None:
            if not line.strip():
                continue
            key, _, digits = line.rpartition(":")
        else:
            digits = line.removeprefix(":")
        number = digits.strip()
        if not number.isascii() or not number.isdecimal() or len(number) > _MOST_DIGITS:
            raise ValueError(f"the line {shortened(repr(line))} is none of a vocabulary")
        numbers[_scalar(key)] = int(number)
        key = None
    return by_number(numbers)


def _scalar(text: str) -> str:
    text = text.strip(" ")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return _ESCAPE.sub(_unescaped, text[1:-1])
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise ValueError(f"there is no character {number:x}")
        return chr(number)
    return _SPECIAL.get(code, code)


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)
