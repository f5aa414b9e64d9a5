"""`nmtasync translate`: a trained model as a filter."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nmtasync.config.load import Settings
from nmtasync.data.corpus import decode_line
from nmtasync.errors import UserError

from .decoding import model_options, read_decoding
from .options import GroupedCommand, config_options, run_argument

_READ_BYTES = 1 << 16
"""Some hundred lines: enough that sentences of similar length find each other."""


@click.command(cls=GroupedCommand)
@run_argument
@click.option(
    "--n-best",
    type=click.IntRange(min=1),
    metavar="N",
    help="Print up to N translations of each line as `line ||| translation ||| score`, lines "
    "counted from 0; the score is the log probability, normalised by length.",
)
@model_options
@config_options("translate", section="decoding")
def translate(
    run: Path,
    n_best: int | None,
    checkpoint: str,
    average: int,
    device: str,
    settings: Settings,
) -> None:
    """Translate standard input to standard output, line by line.

    Keeps the order and the number of lines; a blank line gives a blank line. What is there is
    translated at once, so it also answers line by line in a terminal. Search options come from
    RUN/config.toml, then --config, then --set, then flags; the last one wins.

    \b
    Examples:
      nmtasync translate runs/de-en < text.de > text.en
      nmtasync translate runs/de-en --beam-size 8 --n-best 8 < text.de
    """
    from nmtasync.evaluation.trained_model import load_trained

    for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
        if stream is None:  # as `<&-` makes it
            raise UserError(
                "is closed", where=f"standard {name}", remedy="give it a file or a pipe"
            )
    if fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise UserError(
            "is open for reading only", where="standard output", remedy="give it a file or a pipe"
        )
    decoding = read_decoding(run, settings)
    if n_best and n_best > decoding.beam_size:
        raise UserError(
            f"a beam of {decoding.beam_size} does not hold {n_best} translations",
            where="--n-best",
            remedy=f"add --beam-size {n_best}",
        )
    num_before = 0  # lines of earlier chunks

    def warn(line: int, message: str) -> None:
        click.echo(f"nmtasync: warning: stdin:{num_before + line + 1}: {message}", err=True)

    translator = load_trained(run, checkpoint, average, device, decoding, warn).translator
    for lines in read_chunks(sys.stdin.buffer):
        if n_best:
            answers = translator.translate_n_best(lines, n_best)
            output = [
                f"{num_before + i} ||| {text} ||| {score:.4f}"
                for i, translations in enumerate(answers)
                for text, score in translations
            ]
        else:
            output = translator.translate(lines)
        sys.stdout.buffer.write("".join(line + "\n" for line in output).encode("utf-8"))
        sys.stdout.buffer.flush()
        num_before += len(lines)


def read_chunks(stream: Any) -> Iterator[list[str]]:
    """Read lines as they come: all that are there, without waiting for more.

    Args:
        stream: A buffered binary stream.

    Raises:
        UserError: A line is no text in UTF-8; the lines before it have been yielded.
    """
    num_lines = 0
    for raw_lines in _read_raw(stream):
        lines: list[str] = []
        for raw in raw_lines:
            try:
                lines.append(decode_line(raw, f"stdin:{num_lines + 1}", first=num_lines == 0))
            except UserError:
                if lines:
                    yield lines
                raise
            num_lines += 1
        yield lines


def _read_raw(stream: Any) -> Iterator[list[bytes]]:
    """Split what has arrived at line feeds; the last line need not have one."""
    parts: list[bytes] = []
    while data := stream.read1(_READ_BYTES):
        whole, found, rest = data.rpartition(b"\n")
        if not found:
            parts.append(data)
            continue
        yield b"".join((*parts, whole)).split(b"\n")
        parts = [rest] if rest else []
    if parts:
        yield [b"".join(parts)]
