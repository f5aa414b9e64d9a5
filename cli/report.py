"""`nmtasync report`: what runs have come to, as a page, as pictures or for programs."""

from __future__ import annotations

from pathlib import Path

import click

from nmtasync.errors import UserError
from nmtasync.run_directory import (
    explain_write_errors,
    json_text,
    refuse_unwritable,
    write_atomically,
)


@click.command()
@click.argument("run", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write the page to this file.",
)
@click.option(
    "--png",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the curves as pictures into this directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as a JSON object.")
@click.option(
    "--sentences",
    type=click.IntRange(min=0, max=1000),
    default=40,
    show_default=True,
    metavar="N",
    help="Show the translations of N sentences of each test set.",
)
def report(
    run: tuple[Path, ...], output: Path | None, png: Path | None, as_json: bool, sentences: int
) -> None:
    """Show what one run or several have come to, side by side.

    The page needs nothing beside it, no network either: BLEU and cross-entropy over time, words and
    updates, the time to a BLEU of your choice, pace, staleness, rate, options that differ, scores
    and translations. A run that is under way is shown as far as it is; what can't be read is named.

    \b
    Examples:
      nmtasync report runs/de-en -o report.html
      nmtasync report runs/synchronous runs/asynchronous -o report.html --png pictures
      nmtasync report runs/de-en --json
    """
    from nmtasync.report.figures import read_report

    if output is None and png is None and not as_json:
        raise UserError(
            "there is nothing to write",
            where="report",
            remedy="add -o report.html, --png or --json",
        )
    for place in (output and output.parent, png):
        if place is not None:
            refuse_unwritable(place)
    content = read_report(run, sentences)
    for note in content.notes:
        click.echo(f"nmtasync: warning: {note}", err=True)
    if output is not None:
        from nmtasync.report.page import render

        page = render(content)
        with explain_write_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(output, page)
    if png is not None:
        from nmtasync.report.pictures import draw

        draw(content.runs, png)
    if as_json:
        click.echo(json_text(content.to_json()))
