"""When training has gone astray, and which checkpoint was saved before that.

Two signs are looked at, of pushes in their order, so that the same pushes give the same verdict:
gradients in a row that are not finite, and a loss far above what it was. Of the latter there are
two means over the pushes' cross-entropies: a short one, and the lowest that a long one has come to.
The loss is far above it by `MARGIN`, which no step of a schedule, no change of a batch's kind and
no noise makes, but a model that has forgotten what it knew. A single push counts for at most twice
the margin, so that it alone proves nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nmtasync.checkpoints.state import TrainingState
from nmtasync.config.schema import Config
from nmtasync.errors import TrainingError
from nmtasync.server.decaying_mean import DecayingMean
from nmtasync.untrusted import typed

MAX_UNUSABLE_PUSHES = 25
"""So many non-finite gradients in a row are divergence."""

DOUBTED_PUSHES = 5
"""So many of them are reason for doubt."""

RECENT_PUSHES = 20
"""What the loss is now is a mean over so many pushes, and nothing is judged before."""

USUAL_PUSHES = 200
"""What it was before is a mean over so many."""

MARGIN = 2.0
"""A loss is far above another from so many nats per target word on."""

PATIENCE_PUSHES = 200
"""A loss that has been far above its best for so many pushes in a row is divergence."""

TRUSTED_PUSHES = 100
"""A checkpoint is good if there is no doubt so many pushes after it."""


MAX_ROLLBACKS = 3
"""Where divergence means to go back, training ends when it has done so as often as this."""

ROLLBACK_RATE = 0.5
"""What learning rates are multiplied by when training goes back; a power of two rounds nothing."""


def slowed(config: Config, rollbacks: int) -> Config:
    """Return a config with the learning rates after so many rollbacks."""
    factor = ROLLBACK_RATE**rollbacks
    schedule, options = config.schedule, config.asynchronous
    local = options.local_learning_rate
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(schedule, learning_rate=schedule.learning_rate * factor),
        asynchronous=dataclasses.replace(
            options, local_learning_rate=None if local is None else local * factor
        ),
    )


class DivergedError(TrainingError):
    """Training has gone astray."""


class Divergence:
    """Watches the pushes of a run.

    Attributes:
        best: The lowest mean loss so far, in nats per target word; None before the first push.
        num_above: For how many pushes in a row the loss has been far above it.
        num_unusable: How many gradients in a row were not finite.
        good: The newest checkpoint that was saved before anything was amiss, by its updates; the
            one that a run is resumed from counts as such.
        ignored: Whether training goes on whatever happens, and no state is doubted.
    """

    def __init__(self, good: int | None = None, *, ignored: bool = False) -> None:
        self.ignored = ignored
        self._told = False
        self.best: float | None = None
        self.num_above = 0
        self.num_unusable = 0
        self.good = good
        self._recent, self._usual = DecayingMean(RECENT_PUSHES), DecayingMean(USUAL_PUSHES)
        self._candidate: tuple[int, float] | None = None
        self._written = False

    @property
    def doubtful(self) -> bool:
        """Whether the state may be a diverged one, so that it must not be saved."""
        amiss = self.num_above > 0 or self.num_unusable >= DOUBTED_PUSHES
        return amiss and not self.ignored

    @property
    def verdict(self) -> str | None:
        """What says that training has diverged, if it has."""
        if self.num_unusable >= MAX_UNUSABLE_PUSHES:
            return f"training diverged: {self.num_unusable} gradients in a row are not finite"
        if self.num_above >= PATIENCE_PUSHES:
            return (
                f"training diverged: for {self.num_above} pushes the loss has been more than "
                f"{MARGIN:g} nats above its best, {self.best:.2f}"
            )
        return None

    def judge(self, run: Path, tell: Callable[[str], None]) -> None:
        """End training if it has diverged, or tell it once if that is ignored.

        Args:
            run: The directory, for the error.
            tell: Shows a line.

        Raises:
            DivergedError: It has.
        """
        verdict = self.verdict
        if verdict is None:
            return
        if not self.ignored:
            kept = f"that of update {self.good} is kept" if self.good else "none was good"
            raise DivergedError(
                verdict,
                where=run,
                remedy="lower schedule.learning_rate or raise schedule.warmup_updates; of the "
                f"checkpoints, {kept}",
            )
        if not self._told:
            tell(f"{verdict}; going on, as training.on_divergence is 'ignore'")
            self._told = True

    @classmethod
    def of(cls, config: Config, start: TrainingState) -> Divergence:
        """Watch a run that begins or goes on; what was seen before counts for the same network."""
        good = start.updates if start.updates > 0 else None
        watch = cls(good, ignored=config.training.on_divergence == "ignore")
        if start.config.model == config.model:
            watch.restore(start.measured.get("divergence", {}))
        return watch

    def see(self, loss: float) -> None:
        """Take note of a push that was applied.

        Args:
            loss: Its cross-entropy per target word, in nats.
        """
        self.num_unusable = 0
        if self.best is None:
            if not math.isfinite(loss):
                return
            self.best = loss
        most = self.best + 2 * MARGIN
        loss = loss if loss < most else most  # which most is for what is no number, too
        self._recent.add(loss)
        self._usual.add(loss)
        if self._usual.count == RECENT_PUSHES:
            self.best = self._usual.value
        else:
            self.best = min(self.best, loss if self._settling else self._usual.value)
        above = not self._settling and self._recent.value > self.best + MARGIN
        self.num_above = self.num_above + 1 if above else 0
        self._trust()

    def see_unusable(self) -> None:
        """Take note of a push that was dropped, since it was not finite."""
        self.num_unusable += 1

    @property
    def _settling(self) -> bool:
        return self._usual.count < RECENT_PUSHES

    def snapshot(self, updates: int) -> None:
        """Take note that this moment becomes a checkpoint; time will tell whether it is good."""
        if self._written or (self.good is not None and updates <= self.good):
            return
        self._candidate = updates, self._usual.count  # one before it could not be written

    def written(self, updates: int) -> None:
        """Take note that a checkpoint is on the disk."""
        self._written |= self._candidate is not None and self._candidate[0] == updates

    def accept(self, updates: int) -> None:
        """Take a checkpoint for good at once: the last one, which no push will follow."""
        self.good, self._candidate, self._written = updates, None, False

    def _trust(self) -> None:
        if self._candidate is not None and not self.doubtful:
            updates, then = self._candidate
            if self._usual.count >= then + TRUSTED_PUSHES and self._written:
                self.accept(updates)

    @property
    def needed(self) -> tuple[int, ...]:
        """The checkpoints that training may have to go back to, by their updates."""
        if self.ignored:
            return ()
        candidate = () if self._candidate is None else (self._candidate[0],)
        return (*candidate, *(() if self.good is None else (self.good,)))

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps; what was good before it counts no more after a resume."""
        return {
            "best": self.best,
            "num_above": self.num_above,
            "num_unusable": self.num_unusable,
            "recent": asdict(self._recent),
            "usual": asdict(self._usual),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from what `to_json` returned; from nothing, if it is empty.

        Raises:
            ValueError, KeyError: It is not what that returns.
        """
        if content:
            best = content["best"]
            self.best = None if best is None else typed(float, best, "best")
            self.num_above = typed(int, content["num_above"], "num_above")
            self.num_unusable = typed(int, content["num_unusable"], "num_unusable")
            self._recent = typed(DecayingMean, content["recent"], "recent")
            self._usual = typed(DecayingMean, content["usual"], "usual")
