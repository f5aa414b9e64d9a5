"""`nmtasync inspect`: what is in a preprocessed RUN."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtasync.run_directory import RunDirectory, json_text, refuse_unwritable

from .options import run_argument
from .safe_text import safe, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from nmtasync.preprocessing.inspect import Inspection

_PATH_CHARACTERS = 80
_SENTENCE_CHARACTERS = 400
_FIGURES = ("min", "5%", "median", "mean", "95%", "99%", "max")
_COUNT = click.IntRange(min=0, max=10_000)


@click.command()
@run_argument
@click.option(
    "--pieces",
    type=_COUNT,
    default=15,
    show_default=True,
    metavar="N",
    help="List the N commonest pieces of each side, and at most N that never occur.",
)
@click.option(
    "--pairs",
    type=_COUNT,
    default=5,
    show_default=True,
    metavar="N",
    help="Show N pairs of training and of validation as pieces, spread over the corpus.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Which pairs are shown.",
)
@click.option(
    "--png",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw histograms of lengths and ratios into this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as a JSON object.")
def inspect(run: Path, pieces: int, pairs: int, seed: int, png: Path | None, as_json: bool) -> None:
    """Show what is in a preprocessed RUN, before hours are spent on training.

    Of training, validation and each corpus: pairs; lengths in pieces, end of sentence not counted,
    and ratios of target to source; pairs of which a side has 90% of data.max_length or more; bytes
    and unknown pieces; how much of the vocabulary occurs; commonest pieces; sample pairs; what was
    dropped and why; the files that were read. Nothing is changed.

    Many bytes or unknown pieces: characters that the vocabulary lacks. A ratio far from that of
    other corpora: sides that do not match. Many pairs near max_length: raise it, or split text.

    \b
    Examples:
      nmtasync inspect RUN
      nmtasync inspect RUN --pairs 20 --seed 7 --png lengths.png
      nmtasync inspect RUN --json --pieces 100
    """
    from nmtasync.preprocessing.inspect import Wanted
    from nmtasync.preprocessing.inspect import inspect as run_inspect

    from .progress import ProgressDisplay

    if png is not None:
        refuse_unwritable(png.parent)
    with ProgressDisplay("pairs") as display:
        inspection = run_inspect(RunDirectory(run), Wanted(pieces, pairs, seed), display)
    if png is not None:
        from nmtasync.report.length_pictures import draw_lengths

        draw_lengths(inspection, png)
    if as_json:
        click.echo(json_text(inspection.to_json()))
    else:
        _print(inspection)


def _print(inspection: Inspection) -> None:
    import rich.console

    width = None if sys.stdout.isatty() else 160  # a pipe has none, and pieces are long
    console = rich.console.Console(highlight=False, width=width)
    content = inspection.to_json()
    parts = {name: content[name] for name in inspection.parts}
    rows = [row for part in parts.values() for row in _rows(part)]
    _print_pairs(console, rows)
    _print_lengths(console, rows)
    _print_vocabulary(console, rows)
    for name, part in parts.items():
        _print_commonest(console, name, part)
        _print_sample(console, name, part)
        _print_dropped(console, name, part)
    _print_inputs(console, parts)


def _rows(part: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All pairs of a part, and below them each corpus if there are several."""
    corpora = part["corpora"] if len(part["corpora"]) > 1 else []
    return [(part["name"], part), *((f"  {shortened(each['name'])}", each) for each in corpora)]


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...] = ()) -> Any:
    import rich.box
    import rich.table

    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _add(table: Any, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*map(Text, cells))  # they are no markup


def _print_pairs(console: Console, rows: list[tuple[str, dict[str, Any]]]) -> None:
    numbers = ("pairs", "weight", "source pieces", "target pieces", "near max_length")
    table = _table("pairs", ("",), numbers)
    for name, each in rows:
        weight = "" if each["weight"] is None else f"{each['weight']:g}"
        pieces = (f"{each[side]['pieces']:,}" for side in ("source", "target"))
        near = f"{each['near_max_length_share']:.2%}"
        _add(table, name, f"{each['pairs']:,}", weight, *pieces, near)
    console.print(table)


def _print_lengths(console: Console, rows: list[tuple[str, dict[str, Any]]]) -> None:
    table = _table("lengths in pieces, and ratios of target to source", ("", ""), _FIGURES)
    for name, each in rows:
        for side in ("source", "target"):
            figures = each[side]["lengths"] or {}
            cells = (f"{figures[k]:,.{int(k == 'mean')}f}" for k in _FIGURES if k in figures)
            _add(table, name, side, *cells)
        ratios = each["ratios"] or {}
        _add(table, name, "ratio", *(f"{ratios[k]:,.2f}" for k in _FIGURES if k in ratios))
    console.print(table)


def _print_vocabulary(console: Console, rows: list[tuple[str, dict[str, Any]]]) -> None:
    numbers = ("bytes", "sentences", "unknown", "sentences", "vocabulary", "occurs", "share")
    table = _table("bytes, unknown pieces, and coverage of the vocabulary", ("", ""), numbers)
    table.add_column("never", overflow="fold")
    for name, each in rows:
        for side in ("source", "target"):
            shares = (
                f"{each[side][group][share]:.3%}"
                for group in ("bytes", "unknown")
                for share in ("share", "sentences_share")
            )
            _add(table, name, side, *shares, *_coverage(each[side]["coverage"]))
        if each["joint_coverage"]:
            _add(table, name, "both", "", "", "", "", *_coverage(each["joint_coverage"]))
    console.print(table)


def _coverage(coverage: dict[str, Any]) -> tuple[str, ...]:
    never = " ".join(map(shortened, coverage["never"]))
    sizes = f"{coverage['vocabulary']:,}", f"{coverage['occurring']:,}"
    return *sizes, f"{coverage['share']:.1%}", never


def _print_commonest(console: Console, name: str, part: dict[str, Any]) -> None:
    import itertools

    table = _table(f"commonest pieces of {name}", ())
    for side in ("source", "target"):
        table.add_column(side)
        table.add_column("count", justify="right")
    sides = part["source"]["commonest"], part["target"]["commonest"]
    for pair in itertools.zip_longest(*sides):
        cells = ((shortened(e["piece"]), f"{e['count']:,}") if e else ("", "") for e in pair)
        _add(table, *itertools.chain.from_iterable(cells))
    if table.row_count:
        console.print(table)


def _print_sample(console: Console, name: str, part: dict[str, Any]) -> None:
    table = _table(f"sample pairs of {name}", ("pair", "corpus", "", "pieces"), ("length",))
    for pair in part["sample"]:
        first = f"{pair['number']:,}", shortened(pair["corpus"])
        for side, cells in ("source", first), ("target", ("", "")):
            text = shortened(" ".join(pair[side]["pieces"]), _SENTENCE_CHARACTERS)
            _add(table, *cells, side, text, f"{pair[side]['length']:,}")
    if table.row_count:
        console.print(table)


def _print_dropped(console: Console, name: str, part: dict[str, Any]) -> None:
    read = part["read"]
    table = _table(f"dropped of the {read:,} pairs of {name} that were read", ("reason",))
    for heading in ("pairs", "share"):
        table.add_column(heading, justify="right")
    for heading in ("first", "its source", "its target"):
        table.add_column(heading, overflow="fold")
    for each in part["dropped"]:
        number = each["num_pairs"]
        example = (shortened(each[key]) for key in ("source", "target"))
        where = shortened(each["example"], _PATH_CHARACTERS)
        share = f"{number / max(read, 1):.1%}"
        _add(table, safe(each["reason"]), f"{number:,}", share, where, *example)
    if table.row_count:
        console.print(table)


def _print_inputs(console: Console, parts: dict[str, dict[str, Any]]) -> None:
    table = _table("files that were read", ("", "corpus", "side", "file"), ("weight", "lines"))
    for name, part in parts.items():
        for file in part["inputs"]:
            path = shortened(file["path"], _PATH_CHARACTERS)
            corpus, side = shortened(file["name"] or ""), shortened(file["side"])
            _add(table, name, corpus, side, path, f"{file['weight']:g}", f"{file['lines']:,}")
    console.print(table)
