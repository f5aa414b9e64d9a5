"""Command-line flags, derived from the config schema."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nmtasync.config.load import (
    Settings,
    convert,
    describe_range,
    merge,
    parse_assignment,
    read_toml,
)
from nmtasync.config.option import OptionField
from nmtasync.config.schema import OPTIONS
from nmtasync.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


class _Value(click.ParamType[Any]):
    """A flag's value, checked by the schema."""

    def __init__(self, field: OptionField) -> None:
        self.field = field
        self.name = {int: "N", float: "X", str: "TEXT"}[field.type]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text in the option's type."""
        if isinstance(value, str) and self.field.type in (int, float):
            with contextlib.suppress(ValueError):  # a word, which may be one of the choices
                value = self.field.type(value)
        try:
            return convert(self.field, value, where=self.field.flag)
        except UserError as error:
            self.fail(error.message, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Offer the choices."""
        words = [c for c in self.field.about.choices or () if c.startswith(incomplete)]
        return [click.shell_completion.CompletionItem(word) for word in words]


def _metavar(field: OptionField) -> str | None:
    """Show the choices where there is nothing else; what click makes of the type otherwise."""
    choices = field.about.choices if field.type is str else None
    return f"[{'|'.join(choices)}]" if choices else None


def config_options(stage: str) -> Callable[[F], F]:
    """Add `--config`, `--set`, and a flag for each option that the stage offers.

    The command receives them as `config_files`, `assignments` and one argument for each flag,
    which is None where the flag was not given; `read_settings` makes settings of them.
    """
    fields = [field for field in OPTIONS.values() if stage in field.about.stages]

    def decorate(function: F) -> F:
        for field in reversed(fields):
            default = "none" if field.default is None else field.default
            text = f"{field.about.help} {describe_range(field)}".rstrip() + f" (default: {default})"
            if field.type is bool:
                spelling = f"{field.flag}/--no-{field.flag[2:]}"
                function = click.option(spelling, field.key, default=None, help=text)(function)
            else:
                function = click.option(
                    field.flag,
                    field.key,
                    type=_Value(field),
                    default=None,
                    help=text,
                    metavar=_metavar(field),
                )(function)
        function = click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Set any option of the configuration; may be repeated.",
        )(function)
        return click.option(
            "--config",
            "config_files",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE.toml",
            help="Read options from this file; --set and flags override it. May be repeated; the "
            "last one wins.",
        )(function)

    return decorate


def read_settings(
    config_files: tuple[Path, ...], assignments: tuple[str, ...], flags: dict[str, Any]
) -> Settings:
    """Merge config files, `--set` and flags, in this order, the last one winning.

    Args:
        config_files: TOML files, the last one winning.
        assignments: The texts of `--set`.
        flags: Values by key, None where the flag was not given.
    """
    by_key = {field.key: name for name, field in OPTIONS.items()}
    given = dict(parse_assignment(text) for text in assignments)
    given.update({by_key[key]: value for key, value in flags.items() if value is not None})
    return merge(*(read_toml(path) for path in config_files), given)


run_argument = click.argument(
    "run", metavar="RUN", type=click.Path(path_type=Path, file_okay=False)
)
