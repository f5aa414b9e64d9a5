"""The table and the plots of an ablation, out of the logs of its rows.

    python -m recipes.paper.report OUT

writes OUT/report.md and OUT/report.json, and with matplotlib OUT/report.png, of the rows there are.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from nmtasync.config.load import read_toml
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.report.run_figures import SMOOTHED_EPOCHS
from nmtasync.run_directory import RunDirectory, write_atomically, write_json
from recipes.paper.measure import measure
from recipes.paper.plots import plot
from recipes.paper.rows import ROWS, Row
from recipes.paper.timing import TARGETS, Runs, Timing, time_rows


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


def as_json(rows: dict[Row, Runs], notes: list[str]) -> dict[str, Any]:
    """The report for programs: each run's figures, and the notes."""
    timings = time_rows(rows)
    return {
        "targets": TARGETS,
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
                        "best_smoothed_bleu": run.best_smoothed_bleu,
                        "lowest_cross_entropy": run.lowest_cross_entropy,
                        "timings": {name: asdict(t) for name, t in timings[row][seed].items()},
                    }
                    for seed, run in runs.items()
                },
            }
            for row, runs in rows.items()
        ],
    }


def as_markdown(rows: dict[Row, Runs], notes: list[str]) -> str:
    """The report for people: a table of all, one for each target, and the notes below."""
    timings = time_rows(rows)
    lines = ["# Ablation", "", *_overview(rows)]
    for name, title in TARGETS.items():
        of_target = {
            row: [of_run[name] for of_run in by_seed.values()] for row, by_seed in timings.items()
        }
        form = ".3f" if name == "cross_entropy" else ".2f"
        lines += ["", f"## To {title}", "", *_speeds(of_target, form)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _overview(rows: dict[Row, Runs]) -> list[str]:
    table = []
    for row, by_seed in rows.items():
        runs = list(by_seed.values())
        cells = [
            row.title if all(run.ended for run in runs) else f"{row.title} (not ended)",
            ", ".join(map(str, by_seed)),
            _spread([run.learning_rate for run in runs], ".3g"),
            _spread([run.target_words_per_second for run in runs], ",.0f"),
            _spread([run.target_words_per_update for run in runs], ",.0f"),
            _spread([run.staleness for run in runs], ".2f"),
            _spread([run.best_bleu for run in runs], ".2f"),
            _spread([run.best_smoothed_bleu for run in runs], ".2f"),
            _spread([run.lowest_cross_entropy for run in runs], ".3f"),
        ]
        table.append(cells)
    return _table(
        "row, seeds, learning rate, target words/s, words of an update, mean staleness (updates), "
        "best BLEU, best smoothed BLEU, lowest cross-entropy",
        table,
    )


def _speeds(rows: dict[Row, list[Timing]], form: str) -> list[str]:
    """The table of one target, which is written in a form."""
    table = []
    for row, timings in rows.items():
        cells = [
            row.title,
            _spread([timing.target for timing in timings], form),
            _reached(timings),
            _spread([timing.target_words for timing in timings], ",.0f"),
            _spread([timing.speed_up for timing in timings], ".2f"),
            _spread([timing.by_words for timing in timings], ".2f"),
            _spread([timing.by_pace for timing in timings], ".2f"),
        ]
        table.append(cells)
    columns = "row, target, seconds, target words, speed-up, by words needed, by words/s"
    return _table(columns, table)


def _table(columns: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table with these columns, with commas between them."""
    names = columns.split(", ")
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


def _spread(values: Sequence[float | None], form: str) -> str:
    """Mean and range; nothing where a seed has no value, since the mean of the rest misleads."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    mean = format(statistics.fmean(known), form)
    if len(known) == 1 or min(known) == max(known):
        return mean
    return f"{mean} ({min(known):{form}} to {max(known):{form}})"


def _reached(timings: list[Timing]) -> str:
    missing = sum(timing.seconds is None for timing in timings)
    if not missing or any(timing.target is None for timing in timings):
        return _spread([timing.seconds for timing in timings], ",.0f")
    some = missing < len(timings)
    return f"not reached by {missing} of {len(timings)}" if some else "not reached"


def describe(out: Path, rows: dict[Row, Runs]) -> list[str]:
    """Say how the figures came about, out of the configuration of a row."""
    row, runs = next(iter(rows.items()))
    settings = read_toml(run_directory(out, row, next(iter(runs))).config)
    notes = [
        "BLEU (greedy, validation set) and cross-entropy are smoothed before they are timed: to "
        "means of the straight lines between validations, over "
        f"{SMOOTHED_EPOCHS:g} epochs to each side. The best BLEU of the baseline is the highest "
        "place of its smoothed curve, of the same seed. When a target was first reached is read "
        "off the straight line between two places.",
        "The speed-up by the clock is the product of its two factors: the baseline's target words "
        "to the target over the row's, and the row's target words per second until then over "
        "the baseline's.",
        "Of several seeds: mean (lowest to highest). Speed-ups are those of each seed against the "
        "baseline of the same seed; they are left out where a seed did not reach the target.",
        "The words of an update are those of all that it is made of: the delay, and in synchronous "
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
        f"The cost model, as it was used: {costs}.",
        "Synchronous rows: an update takes as long as the slowest worker computes, plus two "
        "transfers (reduce-scatter and all-gather); it does not overlap them.",
    ]
    return notes


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
