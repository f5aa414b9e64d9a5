"""How fast rows were: until they reached what the baseline of their seed reached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.report.curves import Point, reach_bleu, reach_cross_entropy
from recipes.paper.measure import Measured
from recipes.paper.rows import BASELINE, Row

BLEU_MARGIN = 0.2
"""The first target is no further below the baseline's best smoothed BLEU."""
BLEU_SHARE = 0.95
"""The second target is this share of it."""

TARGETS = {
    "best": f"the baseline's best BLEU - {BLEU_MARGIN}",
    "share": f"{BLEU_SHARE:.0%} of the baseline's best BLEU",
    "cross_entropy": f"the baseline's cross-entropy at its best BLEU - {BLEU_MARGIN}",
}
"""What rows are timed to: names of the report for programs, and what they are."""

Runs = dict[int, Measured]
"""The runs of a row, by seed."""


@dataclass(frozen=True)
class Timing:
    """How fast a run was.

    Attributes:
        target: What it is timed to; None without a baseline that has learnt anything.
        seconds: To the target; None if it was not reached, or there is none.
        target_words: The same in target words.
        speed_up: The baseline's seconds over these: `by_words` times `by_pace`.
        by_words: The baseline's target words over these.
        by_pace: The target words per second until the target over the baseline's.
    """

    target: float | None = None
    seconds: float | None = None
    target_words: float | None = None
    speed_up: float | None = None
    by_words: float | None = None
    by_pace: float | None = None


def time_rows(rows: dict[Row, Runs]) -> dict[Row, dict[int, dict[str, Timing]]]:
    """Time each run against the baseline of its seed, to each of the targets."""
    baselines = rows.get(BASELINE, {})
    return {
        row: {seed: _time(run, baselines.get(seed)) for seed, run in runs.items()}
        for row, runs in rows.items()
    }


def _time(run: Measured, baseline: Measured | None) -> dict[str, Timing]:
    best = None if baseline is None else baseline.best_smoothed_bleu
    if baseline is None or best is None or best <= BLEU_MARGIN:
        return {name: Timing() for name in TARGETS}
    at_best = reach_bleu(baseline.smoothed, best - BLEU_MARGIN)
    assert at_best is not None, "the baseline reaches what is below its best"
    reach = {
        "best": (best - BLEU_MARGIN, partial(reach_bleu, bleu=best - BLEU_MARGIN)),
        "share": (best * BLEU_SHARE, partial(reach_bleu, bleu=best * BLEU_SHARE)),
        "cross_entropy": (
            at_best.cross_entropy,
            partial(reach_cross_entropy, cross_entropy=at_best.cross_entropy),
        ),
    }
    return {
        name: _compare(target, find(run.smoothed), find(baseline.smoothed))
        for name, (target, find) in reach.items()
    }


def _compare(target: float, place: Point | None, baseline: Point | None) -> Timing:
    if place is None:
        return Timing(target)
    if baseline is None:
        return Timing(target, place.seconds, place.target_words)
    by_words = baseline.target_words / place.target_words
    speed_up = baseline.seconds / place.seconds
    return Timing(
        target, place.seconds, place.target_words, speed_up, by_words, speed_up / by_words
    )
