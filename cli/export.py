"""`nmtasync export`: a trained model for another program."""

from __future__ import annotations

from pathlib import Path

import click

from nmtasync.interchange.formats import EXPORTED, QUANTIZATIONS
from nmtasync.run_directory import RunDirectory

from .options import average_option, checkpoint_option, run_argument


@click.command()
@run_argument
@click.option(
    "--format",
    "kind",
    type=click.Choice(EXPORTED),
    required=True,
    help="Which program shall read it; safetensors is plain parameters with names.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="OUT",
    help="The directory to write, which must not be there, or be empty.",
)
@click.option(
    "--quantization",
    type=click.Choice(QUANTIZATIONS),
    help="Of ctranslate2: keep weights in fewer bits, as its converters do.",
)
@checkpoint_option
@average_option
def export(
    run: Path, kind: str, out: Path, quantization: str | None, checkpoint: str, average: int
) -> None:
    """Write a trained model of RUN in the format of another program.

    OUT has the model, its vocabulary and what is known of its origin; it is written whole or not at
    all. A network that the format has no place for is refused, with the option that stands in the
    way; one trained with --set model.preset=marian fits all formats, and marian-s2s is a recurrent
    one that Marian has. docs/export.md shows how each is used.

    \b
    Examples:
      nmtasync export runs/de-en --format ctranslate2 -o de-en-ct2 --quantization int8
      nmtasync export runs/de-en --format safetensors -o de-en --checkpoint last-5
    """
    from nmtasync.interchange.export import export_network
    from nmtasync.interchange.origin import load_network

    network, origin = load_network(RunDirectory(run), checkpoint, average)
    export_network(network, origin, kind, out, quantization)
    numbers = ", ".join(f"{n:,}" for n in origin.checkpoints)
    click.echo(f"exported:  update {numbers}, as {kind}")
    click.echo(f"written:   {click.format_filename(out)}")
