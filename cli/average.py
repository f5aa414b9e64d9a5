"""`nmtasync average`: the mean of checkpoints, as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from nmtasync.run_directory import RunDirectory, json_text

from .options import run_argument


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # it takes none before click 8.4
    """Whole numbers with commas between them."""

    name = "N,N,..."

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """Read them."""
        parts = value.split(",")
        if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
            self.fail(f"{value!r} is no list of numbers, as 100,200,300", param, ctx)
        return [int(part) for part in parts]


@click.command()
@run_argument
@click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Average the newest N checkpoints.",
)
@click.option(
    "--best",
    type=click.IntRange(min=1),
    metavar="N",
    help="Average the N best checkpoints by validation, as training.validate_metric compares.",
)
@click.option(
    "--checkpoints",
    type=_Numbers(),
    metavar="N,N,...",
    help="Average these, by their updates.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="What the mean is called; else last-N, best-N or average. One of that name is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def average(
    run: Path,
    last: int | None,
    best: int | None,
    checkpoints: list[int] | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Average the parameters of checkpoints of RUN, and write the mean to RUN/checkpoints/NAME.

    Everything else reads it as a checkpoint: `translate`, `evaluate` and `score` with --checkpoint
    NAME, `train` with --init-from RUN/checkpoints/NAME. Averaged are the parameters that validation
    scored, which are moving averages where optimizer.smoothing is on. It is written whole or not at
    all, with checksums. Keep enough: train with --set training.keep_checkpoints=10.

    \b
    Examples:
      nmtasync average runs/de-en --last 5
      nmtasync average runs/de-en --best 3 --name best-by-bleu
      nmtasync average runs/de-en --checkpoints 8000,9000,10000
      nmtasync translate runs/de-en --checkpoint last-5 < text.de
    """
    from nmtasync.checkpoints.average import (
        choose_best,
        choose_last,
        choose_named,
        write_average,
    )

    given = [option for option in (last, best, checkpoints) if option is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --last, --best and --checkpoints")
    directory = RunDirectory(run)
    directory.read_manifest()
    with directory.lock():
        if last is not None:
            numbers, name = choose_last(directory, last), name or f"last-{last}"
        elif best is not None:
            numbers, name = choose_best(directory, best), name or f"best-{best}"
        else:
            numbers, name = choose_named(directory, checkpoints or []), name or "average"
        path, state = write_average(directory, numbers, name)
    if as_json:
        click.echo(json_text({"checkpoint": str(path), "averaged_checkpoints": numbers}))
        return
    smoothed = state.config.optimizer.smoothing
    what = "the parameters" if smoothed is None else "the moving averages of the parameters"
    shown = click.format_filename(run)
    click.echo(f"averaged:  {what} of {', '.join(f'{n:,}' for n in numbers)}")
    click.echo(f"written:   {click.format_filename(path)}")
    click.echo(f"Next: nmtasync evaluate {shown} --checkpoint {name} --test NAME SRC REF")
