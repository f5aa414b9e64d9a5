"""`nmtasync profile`: where a worker's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmtasync.config.load import Settings
from nmtasync.errors import NmtasyncError
from nmtasync.run_directory import RunDirectory, json_text

from .options import GroupedCommand, config_options, device_option, run_argument

if TYPE_CHECKING:
    from nmtasync.profiling.figures import Profile


@click.command(cls=GroupedCommand)
@run_argument
@device_option
@click.option(
    "--batches",
    "num_batches",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many batches of the training corpus to measure.",
)
@config_options("profile")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def profile(
    run: Path,
    device: str,
    num_batches: int,
    settings: Settings,
    as_json: bool,
) -> None:
    """Measure what one worker spends its time on: data, forward, loss, backward, exchange.

    RUN must be preprocessed; it needs no checkpoint, and nothing is trained. The table compares
    the network's speed with what matrix products alone reach on the same device, in the same type
    and with as many threads. Options come from RUN/config.toml, then --config, then --set, then
    flags. Other work on the machine falsifies the figures.

    RUN/logs/profile.json holds them all, RUN/logs/cost_model.toml what `nmtasync train --driver
    simulated` needs to let simulated workers take as long. Not counted as operations: what
    cuDNN's recurrent layers do, and what is no matrix product or attention.

    \b
    Examples:
      nmtasync profile RUN
      nmtasync profile RUN --device cuda:0 --precision bf16 --set data.batch_tokens=8000
      nmtasync train RUN2 --config RUN/logs/cost_model.toml --driver simulated --speeds 1,1,1,1
    """
    from nmtasync.profiling.profile import profile as measure
    from nmtasync.profiling.profile import write_profile

    from .progress import ProgressDisplay

    with ProgressDisplay("batches") as display:
        result = measure(RunDirectory(run), settings, device, num_batches, display)
    failure: NmtasyncError | None = None
    try:
        write_profile(RunDirectory(run), result)
    except NmtasyncError as error:  # what has been measured is printed all the same
        failure = error
    if as_json:
        click.echo(json_text(result.to_json()))
    else:
        _print(result, run)
    if failure:
        raise failure


def _print(result: Profile, run: Path) -> None:
    import rich.box
    import rich.console
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("a batch")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for phase, seconds in result.phase_seconds().items():
        table.add_row(phase, f"{1e3 * seconds:,.2f}", f"{seconds / result.batch_seconds:.1%}")
    table.add_section()
    table.add_row("in all", f"{1e3 * result.batch_seconds:,.2f}", "")
    rich.console.Console(highlight=False).print(table)
    speed, layer = result.operations_per_second, result.layer_ceiling
    compiled = ", compiled" if result.compiled else ""
    rows = [
        (
            "measured",
            f"{len(result.batches)} batches on {result.device}, {result.threads} thread(s)",
        ),
        ("precision", f"{result.precision}{compiled}"),
        ("target words/s", f"{result.target_words_per_second:,.0f}"),
        ("network", f"{speed / 1e9:,.1f} GFLOP/s, {speed / layer:.0%} of products of its shape"),
        ("products", f"{layer / 1e9:,.1f} GFLOP/s, large ones {result.square_ceiling / 1e9:,.1f}"),
        ("peak memory", f"{result.peak_bytes / 2**20:,.0f} MiB"),
    ]
    for name, value in rows:
        click.echo(f"{name + ':':17}{value}")
    logs = click.format_filename(RunDirectory(run).logs)
    click.echo(f"\nFigures: {logs}/profile.json; cost model: {logs}/cost_model.toml")
