"""How many mini-batches a window has where `asynchronous.optimizer_delay` is 'auto'.

An exchange costs a worker x seconds, and each word of a window c seconds of computing. With windows
of W words, N workers have N W words under way, and to first order need 1 + N W / B times the words
that the smallest windows would need, B being the noise scale (`server/noise_scale.py`). So
training takes (1 + N W / B) (c + x / W) for each of these, which is least at

    W = sqrt(B x / (c N))

Everything here was measured on pushes, in their order; the clock decides nothing else.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from nmtasync.config.schema import AsynchronousConfig
from nmtasync.optim.schedules import delay_at
from nmtasync.server.decaying_mean import DecayingMean
from nmtasync.untrusted import Positive, typed
from nmtasync.worker.window import WindowFigures

_WINDOWS = 100
"""Times and words are means over so many windows."""

_MEANS = "exchange_seconds", "compute_seconds", "batch_words"
"""What is known of a window: its exchange, and computing and target words of a mini-batch."""


@dataclass
class Delay:
    """Chooses the size of the next window.

    Attributes:
        config: The delay that is asked for.
        num_workers: N.
        chosen: The last choice, where it is a choice.
    """

    config: AsynchronousConfig
    num_workers: int
    chosen: int = 1
    _means: dict[str, DecayingMean] = field(
        default_factory=lambda: {name: DecayingMean(_WINDOWS) for name in _MEANS}
    )

    def see(self, window: WindowFigures, exchange_seconds: float) -> None:
        """Learn from a window that has been pushed.

        Args:
            window: Its figures.
            exchange_seconds: For how long the server took the push, where the worker does not
                know for how long it had nothing to compute.
        """
        lost = window.idle_seconds
        self._means["exchange_seconds"].add(exchange_seconds if lost is None else lost)
        self._means["compute_seconds"].add(window.compute_seconds / window.num_batches)
        self._means["batch_words"].add(window.target_words / window.num_batches)

    def choose(self, updates: int, noise_scale: float | None) -> int:
        """Choose how many mini-batches the next window has.

        Args:
            updates: Those that the shards have made.
            noise_scale: B in target words; None while it is not known, which changes nothing.
        """
        if self.config.optimizer_delay != "auto":
            return delay_at(updates, self.config)
        exchange, compute, words = (self._means[name].value for name in _MEANS)
        measured = min(compute, words) > 0 and exchange >= 0
        if noise_scale is not None and math.isfinite(noise_scale) and measured:
            worth = exchange * words / compute
            best = math.sqrt(noise_scale * worth / self.num_workers)
            self.chosen = max(1, round(min(best / words, self.config.max_delay)))
        return self.chosen

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        means = {name: asdict(mean) for name, mean in self._means.items()}
        return {"chosen": self.chosen, **means}

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from what `to_json` returned; from nothing, if it is empty.

        Raises:
            ValueError, KeyError: It is not what that returns.
        """
        if content:
            self.chosen = typed(Positive, content["chosen"], "chosen")
            self._means = {name: typed(DecayingMean, content[name], name) for name in _MEANS}
