"""`nmtasync score`: log probabilities of given translations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtasync.config.load import Settings
from nmtasync.data.corpus import TextReader, read_together
from nmtasync.data.decompression import STANDARD_INPUT, check_input
from nmtasync.errors import UserError

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
    from nmtasync.evaluation.score import PairScore


@click.command(cls=GroupedCommand, most_used=("length_penalty_type", "length_normalization"))
@run_argument
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("target", metavar="TGT", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--normalize",
    is_flag=True,
    help="Divide each score by the length penalty, as n-best lists have it; else it is the sum.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object for each pair: its line, counted from 0, both scores, and why there "
    "is none.",
)
@click.option(
    "--word-scores",
    is_flag=True,
    help="With --json: the pieces of the target, and the log probability of each.",
)
@model_options
@config_options("score", section="decoding")
def score(
    run: Path,
    source: Path,
    target: Path,
    normalize: bool,
    as_json: bool,
    word_scores: bool,
    model: ChosenModel,
    settings: Settings,
) -> None:
    """Print the log probability, in nats, of each target sentence given its source.

    SRC and TGT are text, compressed or not, line by line; one of them may be -, standard input. The
    end of sentence counts. A pair with an empty side, or with one too long to be translated (more
    than 1,000 pieces, or than the model has positions), has no score: nan, or null with --json.
    There is a line for each pair, in their order; memory does not grow with their number.

    \b
    Examples:
      nmtasync score runs/de-en text.de text.en
      nmtasync translate runs/de-en < text.de | nmtasync score runs/en-de - text.de
      nmtasync score runs/de-en text.de text.en --normalize --threads 4 > scores
      nmtasync score runs/de-en text.de text.en --json --word-scores
    """
    from nmtasync.evaluation.score import Scorer, in_chunks
    from nmtasync.evaluation.trained_model import load_ensemble

    if word_scores and not as_json:
        raise click.UsageError("--word-scores needs --json")
    stdout = standard_output()
    if STANDARD_INPUT in (source, target):
        standard_input()  # refused now where it is closed
    if source == target == STANDARD_INPUT:
        raise UserError("can't be both sides", where="standard input", remedy="name one file")
    decoding = read_decoding(run, settings)
    for side in (source, target):
        check_input(side)
    named = model.checkpoint, model.average, model.device
    trained = load_ensemble(run, *named, model.others(), decoding.precision)
    say_precision(decoding, trained.precision)
    scorer = Scorer(trained.ensemble, trained.vocabularies, decoding, trained.device)
    number, first = 0, None
    for pairs in in_chunks(read_together(TextReader(source), TextReader(target))):
        results = scorer.score(pairs)
        if first is None:
            first = next((number + i for i, each in enumerate(results) if each.problem), None)
        if as_json:
            lines = [_as_json(number + i, each, word_scores) for i, each in enumerate(results)]
        else:
            lines = [_as_text(each.normalized if normalize else each.score) for each in results]
        stdout.write("".join(line + "\n" for line in lines).encode("utf-8"))
        stdout.flush()
        number += len(pairs)
    if first is not None:
        kinds = ", ".join(f"{count:,} with {kind}" for kind, count in scorer.problems.items())
        what = f"{sum(scorer.problems.values()):,} pairs have no score: {kinds}"
        click.echo(f"nmtasync: warning: line {first + 1} and after: {what}", err=True)


def _as_text(score: float | None) -> str:
    return "nan" if score is None else f"{score:.6f}"


def _as_json(number: int, pair: PairScore, word_scores: bool) -> str:
    content: dict[str, Any] = {
        "line": number,
        "score": None if pair.score is None else finite_or_none(pair.score),
        "normalized": None if pair.normalized is None else finite_or_none(pair.normalized),
        "problem": pair.problem,
    }
    if word_scores:
        content["pieces"] = pair.pieces
        content["piece_scores"] = [finite_or_none(score) for score in pair.piece_scores]
    return json.dumps(content, ensure_ascii=False, allow_nan=False)
