"""Command-line flags, derived from the config schema."""

from __future__ import annotations

import contextlib
import functools
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
from nmtasync.config.schema import OPTIONS, SECTIONS
from nmtasync.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


class _Value(click.ParamType):  # type: ignore[type-arg]  # it takes none before click 8.4
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


class GroupedCommand(click.Command):
    """A command whose `--help` lists its own and the most used options first, then by section.

    Args:
        arguments: As of `click.Command`.
        most_used: The keys of options of the configuration that stand among the first.
        keywords: As of `click.Command`.
    """

    def __init__(self, *arguments: Any, most_used: tuple[str, ...] = (), **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.most_used = most_used

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups of options."""
        flags = {field.key: field for field in OPTIONS.values() if self.name in field.about.stages}
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                title = "Options"
                if param.name in flags and param.name not in self.most_used:
                    section = flags[param.name].section
                    title = f"[{section}] {str(SECTIONS[section].__doc__).split('.')[0]}"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def config_options(stage: str, section: str | None = None) -> Callable[[F], Callable[..., Any]]:
    """Add `--config`, `--set`, and a flag for each option that the stage offers.

    The command receives what they set as one argument, `settings`.

    Args:
        stage: The command.
        section: The only section that the command reads besides its flags; None if all. A file
            may hold the others too, which are left aside there, but refused as `--set`.
    """
    fields = [field for field in OPTIONS.values() if stage in field.about.stages]

    def decorate(command: F) -> Callable[..., Any]:
        @functools.wraps(command)
        def function(
            config_files: tuple[Path, ...], assignments: tuple[str, ...], **arguments: Any
        ) -> Any:
            flags = {field.name: arguments.pop(field.key) for field in fields}
            settings = read_settings(config_files, assignments, flags)
            if section is not None:
                settings = _keep_section(settings, assignments, stage, section)
            return command(settings=settings, **arguments)

        for field in reversed(fields):
            choices = field.about.choices
            default = "none" if field.default is None else field.default
            about = f"{field.about.help} {describe_range(field, choices=False)}".rstrip()
            text = f"{about} (default: {default})"
            function = click.option(
                f"{field.flag}/--no-{field.flag[2:]}" if field.type is bool else field.flag,
                field.key,
                type=None if field.type is bool else _Value(field),
                default=None,
                help=text,
                metavar=f"[{'|'.join(choices)}]" if choices and field.type is str else None,
            )(function)
        function = click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Set an option of the configuration, over those of files; may be repeated.",
        )(function)
        return click.option(
            "--config",
            "config_files",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE.toml",
            help="Read options from this file; may be repeated, the last one wins.",
        )(function)

    return decorate


def _keep_section(
    settings: Settings, assignments: tuple[str, ...], stage: str, section: str
) -> Settings:
    """Return the settings that a command reads which takes one section and its flags.

    Raises:
        UserError: `--set` names another.
    """

    def is_read(name: str) -> bool:
        return OPTIONS[name].section == section or stage in OPTIONS[name].about.stages

    for name, _ in map(parse_assignment, assignments):
        if not is_read(name):
            raise UserError(
                f"has no effect on {stage}, which reads the section {section}",
                where=f"--set {name}",
                remedy="give it to the command that it belongs to",
            )
    return {name: value for name, value in settings.items() if is_read(name)}


def read_settings(
    config_files: tuple[Path, ...], assignments: tuple[str, ...], flags: dict[str, Any]
) -> Settings:
    """Merge config files, `--set` and flags, in this order, the last one winning.

    Args:
        config_files: TOML files, the last one winning.
        assignments: The texts of `--set`.
        flags: Values by full name, None where the flag was not given.
    """
    given = dict(parse_assignment(text) for text in assignments)
    given.update({name: value for name, value in flags.items() if value is not None})
    return merge(*(read_toml(path) for path in config_files), given)


run_argument = click.argument(
    "run", metavar="RUN", type=click.Path(path_type=Path, file_okay=False)
)

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N",
    help="Where to compute; auto is the first GPU, else the CPU.",
)

checkpoint_option = click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="best|latest|UPDATES|NAME",
    help="Which checkpoint to use: the best by validation, the latest, one by its number, or "
    "what `nmtasync average` has made, by its name.",
)

average_option = click.option(
    "--average",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Average the parameters of N checkpoints: the chosen one and the newest before it.",
)
