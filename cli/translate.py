"""`nmtasync translate`: a trained model as a filter."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtasync.config.load import Settings
from nmtasync.config.schema import DecodingConfig
from nmtasync.data.corpus import TextReader, decode_line
from nmtasync.errors import UserError
from nmtasync.run_directory import explain_write_errors

from .decoding import (
    ChosenModel,
    finite_or_none,
    model_options,
    read_decoding,
    say_precision,
    standard_input,
    standard_output,
)
from .options import GroupedCommand, config_options, run_argument

if TYPE_CHECKING:
    from nmtasync.evaluation.translate import Translator
    from nmtasync.evaluation.translation import Translation

_READ_BYTES = 1 << 16
"""Some hundred lines: enough that sentences of similar length find each other."""


@dataclass(frozen=True)
class _Format:
    """How translations are printed.

    Attributes:
        num_best: Of each line, at most; None for the best one alone.
        as_json: As objects.
        word_scores: With the pieces and their scores.
    """

    num_best: int | None
    as_json: bool
    word_scores: bool

    def lines(self, number: int, translations: list[Translation]) -> list[str]:
        """Return what is printed of a line, from its number and its translations."""
        if self.as_json:
            found = [self._as_json(each) for each in translations]
            content = {"line": number, "translations": found}
            return [json.dumps(content, ensure_ascii=False, allow_nan=False)]
        if self.num_best is None:
            return [translations[0].text]
        return [f"{number} ||| {each.text} ||| {each.normalized:.4f}" for each in translations]

    def _as_json(self, translation: Translation) -> dict[str, Any]:
        from nmtasync.evaluation.alignment import pharaoh

        content: dict[str, Any] = {
            "text": translation.text,
            "score": finite_or_none(translation.score),
            "normalized": finite_or_none(translation.normalized),
        }
        if self.word_scores and translation.piece_scores is not None:
            content["pieces"] = translation.pieces
            content["piece_scores"] = [finite_or_none(score) for score in translation.piece_scores]
        if translation.links is not None:
            content["alignment"] = pharaoh(translation.links)
        return content


@click.command(
    cls=GroupedCommand, most_used=("beam_size", "sampling", "min_length", "batch_sentences")
)
@run_argument
@click.option(
    "--n-best",
    type=click.IntRange(min=1),
    metavar="N",
    help="Print up to N translations of each line, whose texts differ, as `line ||| translation "
    "||| score`, lines counted from 0; the score is the log probability, divided by the length "
    "penalty. With --sampling, N are drawn.",
)
@click.option(
    "--prefixes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Begin each translation with the text on its line of FILE, which may be empty; the last "
    "word may go on.",
)
@click.option(
    "--alignments",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE, for each translation a line, which words of source and target attention "
    "links, as 0-0 1-2; preprocess --alignments reads it.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object for each line: its number, and its translations with their scores.",
)
@click.option(
    "--word-scores",
    is_flag=True,
    help="With --json: the pieces of each translation, and the log probability of each.",
)
@model_options
@config_options("translate", section="decoding")
def translate(
    run: Path,
    n_best: int | None,
    prefixes: Path | None,
    alignments: Path | None,
    as_json: bool,
    word_scores: bool,
    model: ChosenModel,
    settings: Settings,
) -> None:
    """Translate standard input to standard output, line by line.

    Keeps the order and the number of lines; a blank line gives a blank line. What is there is
    translated at once, so it also answers line by line in a terminal. Search options come from
    RUN/config.toml, then --config, then --set, then flags; the last one wins. docs/decoding.md
    explains them.

    \b
    Examples:
      nmtasync translate runs/de-en < text.de > text.en
      nmtasync translate runs/de-en --beam-size 8 --n-best 8 < text.de
      nmtasync translate runs/de-en --sampling --top-k 10 --seed 7 < text.de
      nmtasync translate runs/de-en --ensemble runs/de-en-2 --ensemble runs/de-en:300@0.5 < text.de
      nmtasync translate runs/de-en --json --word-scores --alignments text.align < text.de
    """
    from nmtasync.evaluation.translate import totals

    stdin, stdout = standard_input(), standard_output()
    decoding = read_decoding(run, settings)
    _refuse_small_beam(n_best, decoding)
    if word_scores and not as_json:
        raise click.UsageError("--word-scores needs --json")
    shape, begun = _Format(n_best, as_json, word_scores), prefixes and _Prefixes(prefixes)
    with contextlib.ExitStack() as stack:
        links = alignments and stack.enter_context(_LinksFile(alignments))
        number = 0  # of the first line of a chunk
        translator = _load(run, model, decoding)
        for lines in read_chunks(stdin):
            answers = translator.translate_n_best(
                lines,
                n_best or 1,
                prefixes=begun.take(len(lines)) if begun else None,
                first_line=number,
                details=word_scores or links is not None,
            )
            output = itertools.chain(*itertools.starmap(shape.lines, enumerate(answers, number)))
            stdout.write("".join(line + "\n" for line in output).encode("utf-8"))
            stdout.flush()
            if links:
                links.write(answers)
            number += len(lines)
    for total in totals(translator.counts):
        click.echo(f"nmtasync: warning: stdin: {total}", err=True)
    if begun:
        begun.refuse_more(number)


def _refuse_small_beam(num_best: int | None, decoding: DecodingConfig) -> None:
    if num_best and num_best > decoding.beam_size and not decoding.sampling:
        raise UserError(
            f"a beam of {decoding.beam_size} does not hold {num_best} translations",
            where="--n-best",
            remedy=f"add --beam-size {num_best}",
        )


def _load(run: Path, model: ChosenModel, decoding: DecodingConfig) -> Translator:
    from nmtasync.evaluation.trained_model import load_trained

    def warn(line: int, message: str) -> None:
        click.echo(f"nmtasync: warning: stdin:{line + 1}: {message}", err=True)

    named = model.checkpoint, model.average, model.device
    trained = load_trained(run, *named, decoding, warn, model.others())
    say_precision(decoding, trained.precision)
    return trained.translator


class _Prefixes:
    """The file of --prefixes, read beside standard input.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = iter(TextReader(path))
        self._num_taken = 0

    def take(self, number: int) -> list[str]:
        """Return the prefixes of the next lines.

        Raises:
            UserError: There are fewer, or as `TextReader`.
        """
        taken = list(itertools.islice(self._lines, number))
        self._num_taken += len(taken)
        if len(taken) < number:
            raise self._other_length(f"has only {self._num_taken:,} lines, standard input more")
        return taken

    def refuse_more(self, number: int) -> None:
        """See that the file ends with standard input.

        Raises:
            UserError: It does not.
        """
        if next(self._lines, None) is not None:
            raise self._other_length(f"has more lines than standard input, which has {number:,}")

    def _other_length(self, message: str) -> UserError:
        remedy = "give a prefix, which may be empty, for each line"
        return UserError(message, where=self.path, remedy=remedy)


class _LinksFile:
    """The file of --alignments.

    Args:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _LinksFile:
        if not self.path.parent.is_dir():
            remedy = "make it, or name another place"
            raise UserError("there is no such directory", where=self.path.parent, remedy=remedy)
        with explain_write_errors(self.path):
            self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        with explain_write_errors(self.path):
            self._file.close()

    def write(self, answers: list[list[Translation]]) -> None:
        """Write a line for each translation."""
        from nmtasync.evaluation.alignment import pharaoh

        with explain_write_errors(self.path):
            for translation in itertools.chain(*answers):
                self._file.write(pharaoh(translation.links or []) + "\n")
            self._file.flush()


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
