"""One option of one section: the description that the CLI, TOML and docs are derived from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args, get_type_hints


def spelled(value: Any) -> str:
    """Return a value as it is written in TOML, texts without quotation marks."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Condition:
    """What has to hold of other options: at least one of some tests.

    Attributes:
        tests: Of each, the option's full name, a value, and whether it must have it or must not.
    """

    tests: tuple[tuple[str, Any, bool], ...]

    def __str__(self) -> str:
        return " or ".join(
            f"{name} {'=' if wanted else '!='} {spelled(value)}"
            for name, value, wanted in self.tests
        )

    def __or__(self, other: Condition) -> Condition:
        return Condition(self.tests + other.tests)


def has(name: str, value: Any) -> Condition:
    """Require that an option has a value; a rule joined by "+" has each of its parts."""
    return Condition(((name, value, True),))


def lacks(name: str, value: Any) -> Condition:
    """Require that an option has any value but this one. Arguments as of `has`."""
    return Condition(((name, value, False),))


@dataclass(frozen=True)
class Option:
    """What is known about one option, apart from its name, type and default.

    Attributes:
        help: One sentence for `--help` and the reference page.
        unit: The unit of a number, for example "target words".
        minimum: The smallest value that is allowed.
        above: The value that it must exceed.
        maximum: The largest value that is allowed.
        choices: The values that are allowed, where they can be listed; of a number, the words
            that may stand in its place.
        stages: The commands that offer the option as a flag of its own.
        parse: Turns a text into the form that is kept; raises ValueError with what it must be.
        only_if: Conditions without each of which the option has no effect.
    """

    help: str
    unit: str | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    stages: tuple[str, ...] = ()
    parse: Callable[[str], str] | None = None
    only_if: tuple[Condition, ...] = ()


def option(
    default: Any,
    help: str,
    *,
    unit: str | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    stages: tuple[str, ...] = (),
    parse: Callable[[str], str] | None = None,
    only_if: tuple[Condition, ...] = (),
) -> Any:
    """Declare a field of a config section. Arguments as in `Option`."""
    described = Option(help, unit, minimum, above, maximum, choices, stages, parse, only_if)
    return dataclasses.field(default=default, metadata={"option": described})


probability = partial(option, minimum=0.0, maximum=0.9)
"""Declare a probability. Arguments as of `option`."""

train_flag = partial(option, stages=("train",))
"""Declare an option that `nmtasync train` has a flag for. Arguments as of `option`."""


@dataclass(frozen=True)
class OptionField:
    """One option in its place: section, key, type, default and description."""

    section: str
    key: str
    type: type
    optional: bool
    default: Any
    about: Option

    @property
    def name(self) -> str:
        """The full name, as `--set` takes it: section.key."""
        return f"{self.section}.{self.key}"

    @property
    def flag(self) -> str:
        """The command-line flag: --key, with hyphens."""
        return "--" + self.key.replace("_", "-")


def section_fields(section_name: str, section_type: type) -> list[OptionField]:
    """List the options of one section, in the order in which they are declared."""
    hints = get_type_hints(section_type)
    result = []
    for field in dataclasses.fields(section_type):
        members = get_args(hints[field.name]) or (hints[field.name],)
        optional = type(None) in members
        base = members[0]
        about = field.metadata["option"]
        result.append(OptionField(section_name, field.name, base, optional, field.default, about))
    return result
