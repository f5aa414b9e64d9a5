"""The curves of a report as pictures, for papers and for where no browser is.

They are drawn by matplotlib: plotly's own pictures need a browser, which it would have to find or
fetch.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nmtasync.errors import UserError
from nmtasync.report.page import COLOURS
from nmtasync.report.run_figures import RunFigures
from nmtasync.run_directory import explain_write_errors, write_atomically

_CLOCKS = {"seconds": "minutes", "target_words": "target words", "updates": "updates"}
_CURVES = {
    "target_words_per_second": ("target words/s", 0.0),
    "learning_rate": ("learning rate", 0.0),
    "batches_per_push": ("mini-batches of a push", 0.0),
    "momentum": ("momentum", None),
}
"""Simple curves of training: what they are, and where their axis begins, if not at the lowest."""
_LINES = ("-", "--", ":", "-.")


def draw(runs: list[RunFigures], directory: Path) -> list[Path]:
    """Draw the curves of runs.

    Args:
        runs: What to draw.
        directory: Where to write, made if it is not there.

    Returns:
        The pictures.

    Raises:
        UserError: What draws them is not installed, or the directory can't be written.
    """
    figures = {
        "bleu": _over_clocks(runs, "bleu", "BLEU"),
        "cross_entropy": _over_clocks(runs, "cross_entropy", "nats per target word"),
        "staleness": _staleness(runs),
        **{name: _training(runs, name, *about) for name, about in _CURVES.items()},
    }
    pictures = []
    with explain_write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=120)
            write_atomically(directory / f"{name}.png", content.getvalue())
            pictures.append(directory / f"{name}.png")
    return pictures


def panels(number: int) -> tuple[Any, list[Any]]:
    """Return an empty picture and so many panels of it, side by side.

    Raises:
        UserError: What draws them is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "is needed for the pictures, and not installed",
            where="matplotlib",
            remedy="run `pip install 'nmtasync[report]'`, or leave --png out",
        ) from None
    figure = Figure(figsize=(6 * number, 4.5), layout="constrained")
    row = figure.subplots(1, number, squeeze=False)[0]
    for axes in row:
        axes.grid(alpha=0.3)
    return figure, list(row)


def _curve(axes: Any, index: int, run: RunFigures, clock: str, **style: Any) -> Callable[..., None]:
    """Return what draws curves of a run over a clock."""
    size = 60.0 if clock == "seconds" else 1.0

    def plot(curves: dict[str, Any], values: Any, name: str = run.name) -> None:
        places = [value / size for value in curves[clock]]
        heights = [float("nan") if value is None else value for value in values]
        colour = COLOURS[index % len(COLOURS)]
        # matplotlib would typeset what stands between dollars
        label = name.replace("$", r"\$")
        axes.plot(places, heights, color=colour, label=label, **style)

    return plot


def _over_clocks(runs: list[RunFigures], name: str, title: str) -> Any:
    figure, all_axes = panels(len(_CLOCKS))
    for axes, (clock, unit) in zip(all_axes, _CLOCKS.items(), strict=True):
        for index, run in enumerate(runs):
            plot = _curve(axes, index, run, clock, marker=".", linewidth=1.2)
            plot(run.validations, run.validations[name])
        axes.set(xlabel=unit, ylabel=title)
        axes.set_xlim(left=0)
    all_axes[0].legend()
    return figure


def _training(runs: list[RunFigures], name: str, title: str, begin: float | None) -> Any:
    figure, (axes,) = panels(1)
    for index, run in enumerate(runs):
        _curve(axes, index, run, "seconds", linewidth=1.2)(run.training, run.training[name])
    axes.set(xlabel="minutes", ylabel=title)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=begin)
    axes.legend()
    return figure


def _staleness(runs: list[RunFigures]) -> Any:
    figure, (over_time, histogram) = panels(2)
    for index, run in enumerate(runs):
        for number, (worker, values) in enumerate(run.staleness_by_worker.items()):
            style = {"linewidth": 1.2, "linestyle": _LINES[number % len(_LINES)]}
            plot = _curve(over_time, index, run, "seconds", **style)
            plot(run.training, values, f"{run.name}, worker {worker}")
        counts = run.staleness_histogram
        total = sum(counts.values())
        width = 0.8 / len(runs)
        places = [late + (index - (len(runs) - 1) / 2) * width for late in counts]
        shares = [100 * count / total for count in counts.values()]
        histogram.bar(places, shares, width, color=COLOURS[index % len(COLOURS)])
    over_time.set(xlabel="minutes", ylabel="updates late")
    over_time.set_xlim(left=0)
    over_time.set_ylim(bottom=0)
    over_time.legend()
    histogram.set(xlabel="updates late", ylabel="% of pushes")
    return figure
