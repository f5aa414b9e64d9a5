"""`nmtasync`: the group of all commands, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

import nmtasync
from nmtasync.errors import NmtasyncError

COMMANDS = {
    "preprocess": "Clean parallel text, learn the vocabulary, write the binarised corpus.",
    "train": "Train with asynchronous workers, or go on where training stopped.",
    "profile": "Measure where a worker's time goes, and write a cost model for simulations.",
    "evaluate": "Translate test sets and measure BLEU, chrF and TER.",
    "translate": "Translate standard input to standard output, line by line.",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is run, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", package=__package__)
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one is meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], list(COMMANDS), n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands, in the order of use"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command takes the directory RUN first, which holds the whole experiment. "
    "`nmtasync COMMAND --help` explains one of them. Shell completion for bash, once: "
    'eval "$(_NMTASYNC_COMPLETE=bash_source nmtasync)".',
)
@click.version_option(nmtasync.__version__, prog_name="nmtasync")
def cli() -> None:
    """Train neural machine translation models with asynchronous SGD.

    \b
    From raw text to a score:
      nmtasync preprocess RUN --train train.de train.en --valid valid.de valid.en
      nmtasync train      RUN --devices cpu,cpu --optimizer-delay 2
      nmtasync evaluate   RUN --test name test.de test.en
      nmtasync translate  RUN < text.de > text.en
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; expected errors end in one line and their exit code."""
    try:
        return cli.main(args=arguments, prog_name="nmtasync", standalone_mode=True)
    except NmtasyncError as error:
        click.echo(f"nmtasync: error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has left, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
