"""The table and the plots of an ablation, out of the logs of its rows.

    python -m recipes.paper.report OUT

writes OUT/report.md and OUT/report.json, and with matplotlib OUT/report.png, of the rows there are.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from nmtasync.config.load import read_toml
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.run_directory import RunDirectory, write_atomically, write_json
from recipes.paper.measure import Measured, measure
from recipes.paper.rows import BASELINE, ROWS, Row

BLEU_MARGIN = 0.2
"""A row is timed until it is no further below the baseline's best BLEU."""

Runs = dict[int, Measured]
"""The runs of a row, by seed."""


@dataclass(frozen=True)
class Timing:
    """How fast a run was.

    Attributes:
        target: The BLEU that it is timed to; None without a baseline that has learnt anything.
        seconds: To the target; None if it was not reached, or there is none.
        speed_up: The baseline's seconds over these.
    """

    target: float | None = None
    seconds: float | None = None
    speed_up: float | None = None


def run_directory(out: Path, row: Row, seed: int) -> RunDirectory:
    """Where a row is trained with a seed."""
    return RunDirectory(out / row.name / f"seed-{seed}")


def collect(out: Path) -> dict[Row, Runs]:
    """Measure what there is, in the order of the rows."""
    found: dict[Row, Runs] = {}
    for row in ROWS:
        names = (p.name.removeprefix("seed-") for p in (out / row.name).glob("seed-*"))
        seeds = sorted(int(name) for name in names if name.isdecimal())
        runs = {seed: measure(run_directory(out, row, seed)) for seed in seeds}
        known = {seed: run for seed, run in runs.items() if run is not None}
        if known:
            found[row] = known
    return found


def time_rows(rows: dict[Row, Runs]) -> dict[Row, dict[int, Timing]]:
    """Time each run against the baseline of its seed."""
    baselines = rows.get(BASELINE, {})
    return {
        row: {seed: _time(run, baselines.get(seed)) for seed, run in runs.items()}
        for row, runs in rows.items()
    }


def _time(run: Measured, baseline: Measured | None) -> Timing:
    best = None if baseline is None else baseline.best_bleu
    if baseline is None or best is None or best <= BLEU_MARGIN:
        return Timing()
    target = best - BLEU_MARGIN
    seconds, its_seconds = run.seconds_to(target), baseline.seconds_to(target)
    if seconds is None or its_seconds is None:
        return Timing(target, seconds)
    return Timing(target, seconds, its_seconds / seconds)


def as_json(rows: dict[Row, Runs], notes: list[str]) -> dict[str, Any]:
    """The report for programs: each run's figures, and the notes."""
    timings = time_rows(rows)
    return {
        "bleu_margin": BLEU_MARGIN,
        "notes": notes,
        "rows": [
            {
                "name": row.name,
                "title": row.title,
                "overlays": row.overlays,
                "seeds": {
                    seed: {
                        **asdict(run),
                        "best_bleu": run.best_bleu,
                        "target_bleu": timings[row][seed].target,
                        "seconds_to_target": timings[row][seed].seconds,
                        "speed_up": timings[row][seed].speed_up,
                    }
                    for seed, run in runs.items()
                },
            }
            for row, runs in rows.items()
        ],
    }


def as_markdown(rows: dict[Row, Runs], notes: list[str]) -> str:
    """The report for people: a table, and the notes below it."""
    timings = time_rows(rows)
    lines = [
        "| row | seeds | target words/s | effective batch, target words | mean staleness, updates "
        "| best BLEU | seconds to the target | speed-up |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row, runs in rows.items():
        times = list(timings[row].values())
        title = row.title if all(run.ended for run in runs.values()) else f"{row.title} (not ended)"
        cells = [
            title,
            ", ".join(map(str, runs)),
            _spread([run.target_words_per_second for run in runs.values()], ",.0f"),
            _spread([run.target_words_per_update for run in runs.values()], ",.0f"),
            _spread([run.staleness for run in runs.values()], ".2f"),
            _spread([run.best_bleu for run in runs.values()], ".2f"),
            _reached(times, runs),
            _spread([timing.speed_up for timing in times], ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(["# Ablation", "", *lines, "", *(f"- {note}" for note in notes), ""])


def _spread(values: list[float | None], form: str) -> str:
    """Mean and range; nothing where a seed has no value, since the mean of the rest misleads."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    mean = format(statistics.fmean(known), form)
    if len(known) == 1:
        return mean
    return f"{mean} ({min(known):{form}} to {max(known):{form}})"


def _reached(times: list[Timing], runs: Runs) -> str:
    missing = sum(timing.seconds is None for timing in times)
    if not missing or any(timing.target is None for timing in times):
        return _spread([timing.seconds for timing in times], ",.0f")
    return "not reached" if missing == len(runs) else f"not reached by {missing} of {len(runs)}"


def describe(out: Path, rows: dict[Row, Runs]) -> list[str]:
    """Say how the figures came about, out of the configuration of a row."""
    row, runs = next(iter(rows.items()))
    settings = read_toml(run_directory(out, row, next(iter(runs))).config)
    notes = [
        f"The target is the best BLEU (greedy, validation set) of the baseline with the same seed, "
        f"minus {BLEU_MARGIN}. The time to it is read off the straight line between the "
        "validations before and after; all rows validate after as many target words.",
        "Of several seeds: mean (lowest to highest). The speed-up is that of each seed against the "
        "baseline of the same seed; it is left out where a seed did not reach the target.",
        "The effective batch is what an update is made of: the delay, and in synchronous "
        "rows all workers, counted.",
    ]
    if settings["asynchronous.driver"] != "simulated":
        workers = settings["asynchronous.devices"]
        notes.append(f"Times are real, from the start of training, on {workers}.")
        return notes
    costs = ", ".join(
        f"{name.partition('.')[2]} = {value}"
        for name, value in settings.items()
        if name.startswith("simulation.") and name != "simulation.synchronous" and value is not None
    )
    notes += [
        "Gradients are real, times are virtual: they follow from the cost model alone, in "
        "which the server and validation take none, and messages do not delay each other.",
        f"The cost model: {costs}.",
        "Synchronous rows: an update takes as long as the slowest worker computes, plus two "
        "transfers (reduce-scatter and all-gather); it does not overlap them.",
    ]
    return notes


def plot(rows: dict[Row, Runs], path: Path) -> bool:
    """Draw BLEU over time and over words; return False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(13, 5), layout="constrained")
    over_time, over_words = figure.subplots(1, 2, sharey=True)
    for row, runs in rows.items():
        line = "--" if "warmup" in row.overlays else "-"
        style = {"color": f"C{ROWS.index(row) // 2}", "linestyle": line, "linewidth": 1}
        for index, run in enumerate(runs.values()):
            label = row.title if index == 0 else None
            bleu = [point.bleu for point in run.points]
            over_time.plot([p.seconds for p in run.points], bleu, label=label, **style)
            over_words.plot([p.target_words for p in run.points], bleu, **style)
    over_time.set(xlabel="seconds", ylabel="BLEU (greedy, validation set)")
    over_words.set(xlabel="target words")
    for axes in (over_time, over_words):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)
    return True


def write_report(out: Path) -> str:
    """Write the table and the plots of what there is.

    Returns:
        The table.

    Raises:
        UserError: There is nothing to report.
    """
    rows = collect(out)
    if not rows:
        raise UserError("holds no row that has been trained", where=out)
    notes = describe(out, rows)
    if not plot(rows, out / "report.png"):
        notes.append('There are no plots: install them with `pip install -e ".[report]"`.')
    text = as_markdown(rows, notes)
    write_atomically(out / "report.md", text)
    write_json(out / "report.json", as_json(rows, notes))
    return text


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def main(out: Path) -> None:
    """Write OUT/report.md, report.json and report.png of the rows that there are."""
    try:
        click.echo(write_report(out))
    except NmtasyncError as error:
        click.echo(f"report: error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
