"""A picture of a corpus: histograms of the lengths of both sides, and of their ratios."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from nmtasync.preprocessing.inspect import Inspection
from nmtasync.preprocessing.piece_counts import Distribution
from nmtasync.report.page import COLOURS
from nmtasync.report.pictures import panels
from nmtasync.run_directory import explain_write_errors, write_atomically

_BINS = 60


def draw_lengths(inspection: Inspection, path: Path) -> None:
    """Draw how lengths and ratios are distributed, of training and of validation.

    Args:
        inspection: What was counted.
        path: The picture, in PNG.

    Raises:
        UserError: What draws it is not installed, or the file can't be written.
    """
    figure, (source, target, ratio) = panels(3)
    totals = {name: part.total for name, part in inspection.parts.items()}
    for axes, side in (source, "source"), (target, "target"):
        sides = {name: total.lengths[side] for name, total in totals.items()}
        _histograms(axes, sides, logarithmic=False)
        axes.set(xlabel=f"{side} pieces", ylabel="% of sentences")
    _histograms(ratio, {name: total.ratios for name, total in totals.items()}, logarithmic=True)
    ratio.set(xlabel="target pieces / source pieces", ylabel="% of pairs")
    source.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())


def _histograms(axes: Any, parts: dict[str, Distribution], *, logarithmic: bool) -> None:
    filled = {name: part for name, part in parts.items() if len(part.values)}
    if not filled:
        return
    least = min(part.values[0] for part in filled.values())
    most = max(part.values[-1] for part in filled.values())
    if logarithmic:
        bins = np.geomspace(least / 1.05, most * 1.05, _BINS + 1)
        axes.set_xscale("log", base=2)
    else:
        step = max(1, int(np.ceil((most + 1) / _BINS)))  # so that each bin has as many lengths
        bins = np.arange(0, most + step + 1, step) - 0.5
    for number, (name, part) in enumerate(filled.items()):
        weights = 100 * part.counts / part.counts.sum()
        style = {"histtype": "step" if number else "stepfilled", "alpha": 1.0 if number else 0.5}
        axes.hist(part.values, bins, weights=weights, color=COLOURS[number], label=name, **style)
