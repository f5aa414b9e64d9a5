"""The plots of an ablation."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

from recipes.paper.rows import ROWS, Row
from recipes.paper.timing import Runs


def plot(rows: dict[Row, Runs], path: Path) -> bool:
    """Draw BLEU over time and over words, and the words of updates.

    Args:
        rows: What there is.
        path: The picture to write.

    Returns:
        False where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(18, 5), layout="constrained")
    over_time, over_words, sizes = figure.subplots(1, 3)
    for row, runs in rows.items():
        style = _style(row)
        for index, run in enumerate(runs.values()):
            label = row.title if index == 0 else None
            for axes, places in (
                (over_time, [point.seconds for point in run.points]),
                (over_words, [point.target_words for point in run.points]),
            ):
                axes.plot(places, [p.bleu for p in run.points], linewidth=0.5, alpha=0.4, **style)
                smoothed = [point.bleu for point in run.smoothed]
                name = label if axes is over_time else None
                axes.plot(places, smoothed, linewidth=1.2, label=name, **style)
            until = [size.target_words for size in run.update_sizes]
            sizes.plot(until, [size.per_update for size in run.update_sizes], linewidth=1, **style)
    over_time.set(xlabel="seconds", ylabel="BLEU (greedy, validation set)")
    over_words.set(xlabel="target words", ylabel="BLEU (greedy, validation set)")
    sizes.set(xlabel="target words", ylabel="target words of an update", yscale="log")
    for axes in (over_time, over_words, sizes):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)
    return True


def _style(row: Row) -> dict[str, Any]:
    """A colour of its own for each row; its twin with a warm-up has the same, and a broken line."""
    hue = ROWS.index(row) // 2 * 2 / len(ROWS)
    colour = colorsys.hsv_to_rgb(hue, 1.0, 0.8)
    return {"color": colour, "linestyle": "--" if "warmup" in row.overlays else "-"}
