"""`nmtasync import`: a RUN made of another program's model."""

from __future__ import annotations

from pathlib import Path

import click

from nmtasync.interchange.formats import IMPORTED

from .options import run_argument


@click.command("import")
@run_argument
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "kind",
    type=click.Choice(IMPORTED),
    required=True,
    help="Which program the model is of.",
)
@click.option(
    "--vocabs",
    type=click.Path(path_type=Path, dir_okay=False),
    nargs=2,
    default=None,
    metavar="SRC TGT",
    help="Of marian: the vocabularies, .spm, or .yml with source.spm and target.spm beside the "
    "model; by default those that are beside it.",
)
def import_(run: Path, path: Path, kind: str, vocabs: tuple[Path, Path] | None) -> None:
    """Make a RUN of another program's model, with its vocabulary and one checkpoint.

    RUN is new. `translate`, `evaluate` and `score` take it as their own, and so does `train` in
    another RUN: `preprocess --vocab-from RUN`, then `train --init-from RUN`. PATH is a directory
    with a MarianMTModel that transformers has saved, as model.safetensors, with its tokenizer; or
    the npz file of a Transformer or s2s that Marian has trained, with its vocabularies beside it.
    Nothing in PATH is run; pickled files are not read. More: docs/export.md.

    \b
    Examples:
      nmtasync import runs/opus-de-en opus-mt-de-en --from huggingface
      nmtasync import runs/marian model.npz --from marian --vocabs vocab.spm vocab.spm
      nmtasync translate runs/opus-de-en < text.de > text.en
    """
    from nmtasync.interchange.import_network import import_network

    imported = import_network(run, kind, path, vocabs)
    config, shown = imported.model, click.format_filename(run)
    parameters = sum(tensor.numel() for tensor in imported.parameters.values())
    layers = f"{config.encoder_layers} + {config.decoder_layers} layers"
    click.echo(f"imported:  {config.type}, {layers}, {parameters / 1e6:.1f} million parameters")
    click.echo(f"pieces:    {imported.vocabularies.target.size:,} of the target")
    click.echo(f"written:   {shown}")
    click.echo(f"Next: nmtasync translate {shown}")
