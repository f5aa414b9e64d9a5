"""`nmtasync train`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmtasync.config.load import Settings, read_toml, resolve, to_toml
from nmtasync.run_directory import RunDirectory

from .options import GroupedCommand, config_options, run_argument

if TYPE_CHECKING:
    from nmtasync.training.reporting.summary import NoiseSummary, TrainingSummary


@click.command(
    cls=GroupedCommand,
    most_used=("batch_tokens", "learning_rate", "devices", "optimizer_delay", "max_minutes"),
)
@run_argument
@config_options("train")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Resume from the latest checkpoint in RUN; --no-resume deletes the checkpoints there.",
)
@click.option(
    "--resume-from",
    type=click.IntRange(min=0),
    metavar="N",
    help="Resume from checkpoint N instead of the latest; later ones are renamed, not deleted.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Resume even with options that give up a part of what training has kept.",
)
@click.option(
    "--dump-config",
    is_flag=True,
    help="Print the resolved configuration with explanations, and exit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def train(
    run: Path,
    settings: Settings,
    resume: bool,
    resume_from: int | None,
    accept_changes: bool,
    dump_config: bool,
    as_json: bool,
) -> None:
    """Train on RUN/data with asynchronous workers; write RUN/checkpoints and RUN/logs.

    Options come from RUN/config.toml (what was used last), then --config, then --set, then
    flags; the last one wins. Without limits, training stops after
    training.patience validations without improvement. Ctrl-C saves; the same command resumes.

    \b
    Examples:
      nmtasync train RUN --devices cpu,cpu --optimizer-delay 2 --max-minutes 20
      nmtasync train RUN --config my.toml --set model.type=rnn --set model.dropout=0.3
      nmtasync train RUN --dump-config > my.toml
    """
    directory = RunDirectory(run)
    if dump_config:
        kept = read_toml(directory.config) if directory.config.exists() else {}
        click.echo(to_toml(resolve(kept, settings), comments=True), nl=False)
        return
    from rich.console import Console

    from nmtasync.training.train import train as train_run

    if resume_from is not None and not resume:
        raise click.UsageError("--resume-from and --no-resume exclude each other")
    summary = train_run(
        directory,
        settings,
        resume=resume,
        console=Console(stderr=True),
        resume_from=resume_from,
        accept_changes=accept_changes,
    )
    text = json.dumps(dataclasses.asdict(summary)) if as_json else _describe(summary, run)
    try:
        click.echo(text)
    except OSError:
        if not summary.exit_code:  # else the terminal is gone, which is why training ended
            raise
    sys.exit(summary.exit_code)


def _describe_noise(noise: NoiseSummary) -> str:
    under_way = "" if noise.workers == 1 else f", {noise.workers} of them under way"
    text = f"{noise.scale_words:,.0f} words; an update has {noise.update_words:,.0f}{under_way}"
    if noise.larger_batches >= 1.5:
        text += f"; data.batch_tokens could be {noise.larger_batches:.1f} times as large"
    return text


def _describe(summary: TrainingSummary, run: Path) -> str:
    from nmtasync.machine.terminal import duration

    rows = [
        ("ended", summary.reason),
        ("time", duration(summary.seconds)),
        ("updates", f"{summary.updates:,} ({summary.epochs:.2f} epochs)"),
        ("target words", f"{summary.target_words:,}"),
    ]
    if summary.padding is not None:
        rows.append(("padding", f"{summary.padding:.1%} of what was computed, both sides"))
    if summary.bytes_received:
        sent, received = summary.bytes_sent / 1e6, summary.bytes_received / 1e6
        rows.append(("exchanged", f"{sent:,.1f} MB pushed, {received:,.1f} MB fetched"))
    if summary.non_finite_pushes:
        name = click.format_filename(run / "logs/bad-batches")
        rows.append(("dropped", f"{summary.non_finite_pushes:,} non-finite gradients; see {name}"))
    if summary.rollbacks:
        rows.append(("went back", f"{summary.rollbacks} time(s), each to half the learning rate"))
    if summary.split_batches:
        rows.append(
            ("split", f"{summary.split_batches:,} batches, for which memory did not suffice")
        )
    for worker, spent in summary.workers.items():
        shares = f"{spent.computing:.1%} computing, {spent.exchanging:.1%} exchanging"
        rows.append((f"worker {worker}", f"{shares}, {spent.waiting:.1%} waiting"))
    if summary.noise:
        rows.append(("noise scale", _describe_noise(summary.noise)))
    if summary.best:
        best = summary.best
        bleu = "" if best.bleu is None else f", BLEU {best.bleu:.2f} (greedy, validation)"
        rows.append(
            ("best", f"update {best.updates:,}: cross-entropy {best.cross_entropy:.4f}{bleu}")
        )
    lines = [f"{title + ':':14}{value}" for title, value in rows]
    name = click.format_filename(run)
    if summary.exit_code:
        lines.append(f"Go on with: nmtasync train {name}")
    else:
        lines.append(f"Next: nmtasync evaluate {name} --test NAME SRC REF")
        lines.append(f"Figures: tensorboard --logdir {name}/logs, or {name}/logs/metrics.jsonl")
    return "\n".join(lines)
