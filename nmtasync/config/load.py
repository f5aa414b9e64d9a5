"""From defaults, TOML files, `--set` and flags to one checked `Config`, and back to TOML."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nmtasync.config.consistency import refuse_inconsistent
from nmtasync.config.option import OptionField, spelled
from nmtasync.config.presets import with_preset
from nmtasync.config.schema import OPTIONS, SECTIONS, Config, get
from nmtasync.config.simulation import refuse_impossible_simulation
from nmtasync.errors import UserError
from nmtasync.untrusted import MAX_INTEGER, read_document

Settings = dict[str, Any]
"""Values by full name, section.key: only what somebody has set."""


def read_toml(path: Path) -> Settings:
    """Read the settings of a TOML file.

    Raises:
        UserError: The file can't be read, is no TOML, or has an unknown key or a bad value.
    """
    try:
        document = _parse_toml(read_document(path).decode("utf-8"))
    except OSError as error:
        raise UserError(f"can't read the config: {error.strerror}", where=path) from None
    except ValueError as error:
        raise UserError(f"is no valid TOML: {error}", where=path) from None
    settings: Settings = {}
    for section, content in document.items():
        if section not in SECTIONS:
            raise UserError(f"unknown section [{section}]{_suggest(section, SECTIONS)}", where=path)
        if not isinstance(content, dict):
            raise UserError(f"[{section}] must be a section", where=path)
        for key, value in content.items():
            name = f"{section}.{key}"
            settings[name] = convert(find_option(name, where=path), value, where=path)
    return settings


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML, or raise a `ValueError`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (AttributeError, KeyError, TypeError, IndexError) as error:  # faults of the parser
        raise ValueError(f"it can't be parsed: {error!r}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """Read one `section.key=value` of `--set`; the value is TOML, or a bare word.

    Raises:
        UserError: There is no "=", the key is unknown, or the value is bad.
    """
    name, equals, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    if not equals:
        raise UserError("must be section.key=value", where=f"--set {text}")
    try:
        value = _parse_toml(f"value = {raw}")["value"]
    except ValueError:
        value = raw
    return name, convert(find_option(name, where="--set"), value, where="--set")


def find_option(name: str, *, where: object) -> OptionField:
    """Find an option by its full name, or raise a `UserError` that suggests the nearest."""
    if name in OPTIONS:
        return OPTIONS[name]
    raise UserError(f"unknown key {name}{_suggest(name, OPTIONS)}", where=where)


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not close:  # the key may be right and only the section wrong or missing
        key = word.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == key][:1]
    return f"; did you mean {close[0]}?" if close else ""


def convert(field: OptionField, value: Any, *, where: object) -> Any:
    """Return the value in the option's type.

    Raises:
        UserError: Wrong type, out of bounds, none of the choices, or of another form.
    """
    about = field.about
    if field.optional and (value is None or value == "none"):
        return None
    if field.type is not str and isinstance(value, str) and value in (about.choices or ()):
        return value
    if field.type is float and type(value) is int and abs(value) <= MAX_INTEGER:
        value = float(value)
    if type(value) is not field.type:
        raise UserError(f"{field.name} must be {describe_type(field)}, not {value!r}", where=where)
    if field.type is str and about.choices and value not in about.choices:
        known = ", ".join(about.choices)
        raise UserError(f"{field.name} must be one of {known}, not {value!r}", where=where)
    if isinstance(value, str) and value.encode("utf-8", "replace").decode("utf-8") != value:
        # no file can hold it: bytes of the command line may be no UTF-8
        raise UserError(f"{field.name} must be text in UTF-8, not {value!r}", where=where)
    if about.parse is not None and isinstance(value, str):
        try:
            return about.parse(value)
        except ValueError as error:
            raise UserError(f"{field.name} {error}", where=where) from None
    if isinstance(value, int | float):
        _refuse_out_of_bounds(field, value, where=where)
    return value


def _refuse_out_of_bounds(field: OptionField, value: float, *, where: object) -> None:
    about = field.about
    low = -math.inf if about.minimum is None else about.minimum
    high = math.inf if about.maximum is None else about.maximum
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise UserError(f"{field.name} is too large a number", where=where)
    above = -math.inf if about.above is None else about.above
    # not a number is not between them either
    if low <= value <= high and value > above and not math.isinf(value):
        return
    bounds = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
    if about.above is not None:
        bounds = f"more than {above:g}"
    alternative = ' or "none"' if field.optional else ""
    raise UserError(f"{field.name} must be {bounds}{alternative}, not {value}", where=where)


def describe_type(field: OptionField) -> str:
    """Describe the type of an option, for error messages."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    choices = [f'"{choice}"' for choice in field.about.choices or ()]
    kinds = [] if field.type is str and choices else [words[field.type]]
    return " or ".join([*kinds, *choices, *(['"none"'] if field.optional else [])])


def merge(*layers: Settings) -> Settings:
    """Lay settings over each other, presets spelled out; the last layer wins."""
    settings: Settings = {}
    for layer in layers:
        settings.update(with_preset(layer))
    return settings


def resolve(*layers: Settings) -> Config:
    """Merge layers of settings over the defaults; the last one wins.

    Raises:
        UserError: An option is set that has no effect beside the others.
    """
    settings = merge(*layers)
    given: dict[str, Settings] = {section: {} for section in SECTIONS}
    for name, value in settings.items():
        section, key = name.split(".")
        given[section][key] = value
    config = Config(**{section: SECTIONS[section](**values) for section, values in given.items()})
    refuse_inconsistent(config, settings)
    refuse_impossible_simulation(config)
    return config


def to_settings(config: Config) -> Settings:
    """List the value of every option, by full name."""
    return {name: get(config, name) for name in OPTIONS}


def to_toml(config: Config, *, comments: bool = False, only: Iterable[str] = SECTIONS) -> str:
    """Write the config as TOML.

    Args:
        config: What to write.
        comments: Explain every option in a comment above it.
        only: The sections to write.
    """
    lines: list[str] = []
    for section in only:
        lines.append(f"[{section}]")
        for field in (f for f in OPTIONS.values() if f.section == section):
            if comments:
                lines.append(f"# {field.about.help} {describe_range(field)}".rstrip())
            lines.append(f"{field.key} = {_toml_value(get(config, field.name))}")
        lines.append("")
    return "\n".join(lines)


def describe_range(field: OptionField, *, choices: bool = True) -> str:
    """List unit, bounds, choices and conditions in brackets, or nothing."""
    about = field.about
    parts = [about.unit] if about.unit else []
    if about.choices and field.type is str and choices:
        parts.append(", ".join(about.choices))
    if about.minimum is not None:
        parts.append(f"at least {about.minimum:.10g}")
    if about.above is not None:
        parts.append(f"more than {about.above:g}")
    if about.maximum is not None:
        parts.append(f"at most {about.maximum:.10g}")
    if about.only_if:
        parts.append(f"only with {', and '.join(map(str, about.only_if))}")
    return f"[{'; '.join(parts)}]" if parts else ""


def _toml_value(value: Any) -> str:
    if value is None or isinstance(value, str):
        # a JSON string is a TOML string, but for the one control character that JSON lets pass
        return json.dumps(spelled(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return spelled(value)
