"""What a profile says: where a batch's time goes, and what a simulation would take for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PHASES = ("data", "cast", "forward", "loss", "backward", "optimizer", "exchange")
COMPUTING = PHASES[:5]
"""The phases of every batch; the others come once in a push."""

BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class BatchCost:
    """What was measured of one batch.

    Attributes:
        target_words: End of sentence counted, padding not.
        source_words: Likewise.
        seconds: Of each phase in `COMPUTING`.
        operations: Floating-point operations of its matrix products and attention.
    """

    target_words: int
    source_words: int
    seconds: dict[str, float]
    operations: int

    @property
    def computing_seconds(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class ExchangeCost:
    """What was measured of a push and the fetch that follows it.

    Attributes:
        optimizer_seconds: The server's work on the push.
        copy_seconds: Moving the vectors.
        latency_seconds: Until a header is with the other process.
        num_parameters: P, the length of the vector.
    """

    optimizer_seconds: float
    copy_seconds: float
    latency_seconds: float
    num_parameters: int


@dataclass(frozen=True)
class CostModel:
    """Options of the section `simulation`, by which a simulated worker takes as long."""

    seconds_per_batch: float
    seconds_per_target_word: float
    exchange_latency_seconds: float
    exchange_bytes_per_second: float

    def to_toml(self) -> str:
        """Write the section, for `nmtasync train --config`."""
        lines = [f"{name} = {float(f'{value:.6g}')!r}" for name, value in asdict(self).items()]
        return "\n".join(["[simulation]", *lines, ""])


@dataclass(frozen=True)
class Profile:
    """The whole of it.

    Attributes:
        device: What was measured.
        threads: CPU threads.
        precision: That of the network.
        compiled: Whether its layers were.
        batches: Those of the table.
        parts: Parts of batches, for the cost model.
        exchange: One push and fetch.
        batches_per_push: How many batches share one.
        layer_ceiling: Operations a second of matrix products alone, of the model's typical shape.
        square_ceiling: Of large square ones.
        peak_bytes: Of the device's memory, or on a CPU of the process's.
    """

    device: str
    threads: int
    precision: str
    compiled: bool
    batches: list[BatchCost]
    parts: list[BatchCost]
    exchange: ExchangeCost
    batches_per_push: int
    layer_ceiling: float
    square_ceiling: float
    peak_bytes: int

    def phase_seconds(self) -> dict[str, float]:
        """Mean seconds a batch of each phase; a push's are divided among its batches."""
        seconds = {
            phase: sum(batch.seconds[phase] for batch in self.batches) / len(self.batches)
            for phase in COMPUTING
        }
        exchange = self.exchange
        copying = exchange.copy_seconds + 2 * exchange.latency_seconds
        seconds["optimizer"] = exchange.optimizer_seconds / self.batches_per_push
        seconds["exchange"] = copying / self.batches_per_push
        return seconds

    @property
    def batch_seconds(self) -> float:
        """Mean seconds a batch, everything counted."""
        return sum(self.phase_seconds().values())

    @property
    def target_words_per_second(self) -> float:
        """The speed of one worker that does not wait for its turn."""
        words = sum(batch.target_words for batch in self.batches) / len(self.batches)
        return words / self.batch_seconds

    @property
    def operations_per_second(self) -> float:
        """The speed of forward pass, loss and backward pass, while they compute."""
        seconds = sum(batch.computing_seconds for batch in self.batches)
        return sum(batch.operations for batch in self.batches) / seconds

    def cost_model(self) -> CostModel:
        """Fit what `training.cost_model` simulates to what was measured.

        A simulated server takes no time, so that of the optimizer counts as sending.
        """
        measured = [*self.batches, *self.parts]
        fixed, slope = fit_line(
            [batch.target_words for batch in measured],
            [batch.computing_seconds for batch in measured],
        )
        exchange = self.exchange
        sent = 2 * BYTES_PER_PARAMETER * exchange.num_parameters
        bandwidth = sent / max(exchange.copy_seconds + exchange.optimizer_seconds, 1e-9)
        return CostModel(fixed, slope, exchange.latency_seconds, max(bandwidth, 1.0))

    def to_json(self) -> dict[str, Any]:
        """List all figures."""
        return {
            "device": self.device,
            "threads": self.threads,
            "precision": self.precision,
            "compiled": self.compiled,
            "num_batches": len(self.batches),
            "batches_per_push": self.batches_per_push,
            "milliseconds_per_batch": {n: 1e3 * s for n, s in self.phase_seconds().items()},
            "shares": {n: s / self.batch_seconds for n, s in self.phase_seconds().items()},
            "total_milliseconds_per_batch": 1e3 * self.batch_seconds,
            "target_words_per_batch": sum(b.target_words for b in self.batches) / len(self.batches),
            "target_words_per_second": self.target_words_per_second,
            "operations_per_second": self.operations_per_second,
            "layer_ceiling_operations_per_second": self.layer_ceiling,
            "square_ceiling_operations_per_second": self.square_ceiling,
            "peak_bytes": self.peak_bytes,
            "cost_model": asdict(self.cost_model()),
            "measured": [asdict(batch) for batch in [*self.batches, *self.parts]],
        }


def fit_line(words: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit seconds = fixed + slope * words by least squares, neither below zero.

    Returns:
        The fixed seconds, and those of each word.
    """
    x, y = np.asarray(words, dtype=np.float64), np.asarray(seconds)
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread)) if spread.any() else 0.0
    fixed = float(y.mean() - slope * x.mean())
    if slope < 0.0:
        return float(y.mean()), 0.0
    if fixed < 0.0:
        return 0.0, float(x @ y / (x @ x))
    return fixed, slope
