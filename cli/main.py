"""`nmtasync`: the group of all commands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import importlib
import keyword
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

import nmtasync
from nmtasync.errors import NmtasyncError
from nmtasync.machine.memory import is_out_of_memory
from nmtasync.run_directory import explain_write_errors

COMMANDS = {
    "preprocess": "Clean parallel text, learn the vocabulary, write the binarised corpus.",
    "inspect": "Show what is in a preprocessed RUN: lengths, pieces, samples, what was dropped.",
    "train": "Train with asynchronous workers, or resume where training stopped.",
    "profile": "Measure where a worker's time goes, and write a cost model for simulations.",
    "evaluate": "Translate test sets and measure BLEU, chrF and TER.",
    "translate": "Translate standard input to standard output, line by line.",
    "report": "Show what runs have come to, side by side, on a page.",
    "score": "Compute the log probabilities of given pairs of sentences.",
    "average": "Average checkpoints to one that all other commands read.",
    "export": "Write a trained model in the format of another program.",
    "import": "Make a RUN of another program's model.",
    "doctor": "Check the machine and a RUN, and say what to do.",
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
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f".{name}", package=__package__)
        command = getattr(module, name)
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
        with _out_of_memory_explained(), explain_write_errors("standard output"):
            try:
                return cli.main(args=arguments, prog_name="nmtasync", standalone_mode=True)
            except BrokenPipeError:  # the reader of our output has left, as with `| head`
                _drop_output()
                sys.exit(1)
    except NmtasyncError as error:
        click.echo(f"nmtasync: error: {error}", err=True)
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # that was the error
            _drop_output()
        sys.exit(error.exit_code)


def _drop_output() -> None:
    """Let what is left in the buffer of standard output go nowhere, instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _out_of_memory_explained() -> Iterator[None]:
    """Turn what PyTorch raises where memory does not suffice into an error of one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        details = ". ".join(str(error).split(". ")[:2])
        raise NmtasyncError(
            f"memory does not suffice{': ' if details else ''}{details}",
            remedy="lower data.batch_tokens, or --batch-sentences where text is translated",
        ) from None
