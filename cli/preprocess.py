"""`nmtasync preprocess`: raw parallel text to RUN/vocab and RUN/data."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtasync.config.load import Settings
from nmtasync.config.schema import DataConfig
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, json_text

from .options import GroupedCommand, config_options, run_argument
from .safe_text import shortened

if TYPE_CHECKING:
    from nmtasync.data.corpus import PairPaths
    from nmtasync.preprocessing.report import CorpusReport, PreprocessReport

_PAIR = (click.Path(path_type=Path), click.Path(path_type=Path))


@click.command(cls=GroupedCommand)
@run_argument
@click.option(
    "--train",
    type=_PAIR,
    multiple=True,
    metavar="SRC TGT",
    help="The two sides of a training corpus, line by line, plain or compressed; may be repeated.",
)
@click.option(
    "--corpus",
    "corpora",
    multiple=True,
    metavar="NAME=SRC,TGT[@WEIGHT]",
    help="The same with a name, and with a weight: how many times each pair is used an epoch. "
    "NAME=FILE[@WEIGHT] is a file of two columns with a tab between them, - standard input.",
)
@click.option(
    "--valid",
    type=_PAIR,
    multiple=True,
    required=True,
    metavar="SRC TGT",
    help="The two sides of the validation corpus, likewise; may be repeated.",
)
@click.option(
    "--alignments",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="The links between words of a training corpus, line by line, as 0-0 1-2 (source-target); "
    "once for each --train, in their order.",
)
@click.option(
    "--protect",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Drop training pairs of which a side is a line of this file, as of a test set; may be "
    "repeated.",
)
@click.option(
    "--rejects",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what is dropped here: reason, file and line, source, target, between tabs.",
)
@config_options("preprocess", section="data")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the results of an earlier preprocess; refused if RUN holds checkpoints.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def preprocess(
    run: Path,
    train: tuple[tuple[Path, Path], ...],
    corpora: tuple[str, ...],
    valid: tuple[tuple[Path, Path], ...],
    alignments: tuple[Path, ...],
    protect: tuple[Path, ...],
    rejects: Path | None,
    settings: Settings,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Clean parallel text, learn the vocabulary, write the binarised corpus.

    Reads text files of UTF-8 with one sentence a line, plain or compressed with gzip, bzip2, xz or
    zstd. Drops training pairs that are not worth training on, each rule by an option of its own;
    of the validation pairs only those with an empty side. Then learns a SentencePiece vocabulary
    and writes RUN/vocab, RUN/data, RUN/config.toml and RUN/manifest.json: all of them, or after an
    error none. What was cut off goes on when the same command is given again.

    \b
    Example, German to English from two corpora:
      nmtasync preprocess runs/de-en \\
        --train news.de.gz news.en.gz --corpus talks=talks.de,talks.en@2 --valid dev.de dev.en \\
        --source-language de --target-language en --vocab-size 16000 --protect test.de
    """
    from nmtasync.data.corpus import PairPaths
    from nmtasync.preprocessing.preprocess import preprocess as run_preprocess

    from .progress import ProgressDisplay

    training = _training_corpora(train, alignments, corpora)
    config = DataConfig(**{name.removeprefix("data."): v for name, v in settings.items()})
    with ProgressDisplay("pairs") as display:
        report = run_preprocess(
            RunDirectory(run),
            training,
            [PairPaths(*pair) for pair in valid],
            config,
            protect=protect,
            rejects=rejects,
            overwrite=overwrite,
            on_progress=display,
        )
    if as_json:
        click.echo(json_text(report.to_json()))
    else:
        _print_report(run, report)


def _training_corpora(
    train: tuple[tuple[Path, Path], ...], alignments: tuple[Path, ...], corpora: tuple[str, ...]
) -> list[PairPaths]:
    from nmtasync.data.corpus import PairPaths, parse_corpus

    if alignments and len(alignments) != len(train):
        raise UserError(
            f"there are {len(alignments)} for {len(train)} training corpora",
            where="--alignments",
            remedy="give one for each --train, or none",
        )
    if alignments and corpora:
        raise UserError("can be given for --train only", where="--alignments")
    if not train and not corpora:
        raise UserError("is missing", where="--train", remedy="give it, or --corpus")
    return [
        *(
            PairPaths(source, target, links)
            for (source, target), links in itertools.zip_longest(train, alignments)
        ),
        *map(parse_corpus, corpora),
    ]


def _print_report(run: Path, report: PreprocessReport) -> None:
    import rich.box
    import rich.console
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for name in ("pairs", "share"):
        table.add_column(name, justify="right")
    table.add_column("first", overflow="fold")
    for side in ("its source", "its target"):
        table.add_column(side, no_wrap=True)
    _add_corpus(table, "training", report.train)
    table.add_section()
    _add_corpus(table, "validation", report.valid)
    width = None if sys.stdout.isatty() else 240  # a pipe has none, and paths are long
    rich.console.Console(highlight=False, width=width).print(table)
    train, pair, lender = report.train, report.vocabularies, report.config.vocab_from
    size = f"{pair.source.size:,} {'joint' if pair.joint else f'and {pair.target.size:,}'} pieces"
    per_word = train.source_pieces / train.source_words, train.target_pieces / train.target_words
    rows = [
        ("vocabulary", f"{size}, of {lender}" if lender else size),
        ("pieces per word", f"{per_word[0]:.2f} source, {per_word[1]:.2f} target"),
        ("training words", f"{train.source_words:,} source, {train.target_words:,} target"),
        ("time", f"{report.seconds:.1f} s"),
    ]
    for label, value in rows:
        click.echo(f"{label:17}{value}")
    for note in report.notes:
        click.echo(f"note: {click.format_filename(note)}")  # it may name a file
    click.echo(f"\nNext: nmtasync train {click.format_filename(run)}")


def _add_corpus(table: Any, name: str, corpus: CorpusReport) -> None:
    import rich.text

    table.add_row(f"{name} pairs read", f"{corpus.num_read:,}")
    for dropped in corpus.dropped:
        table.add_row(
            f"  {dropped.reason}",
            f"{dropped.num_pairs:,}",
            f"{dropped.num_pairs / corpus.num_read:.1%}",
            rich.text.Text(click.format_filename(dropped.example)),  # it is no markup
            rich.text.Text(shortened(dropped.source)),
            rich.text.Text(shortened(dropped.target)),
        )
    table.add_row("  kept", f"{corpus.num_kept:,}", f"{corpus.num_kept / corpus.num_read:.1%}")
