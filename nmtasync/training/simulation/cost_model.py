"""How long things take in a simulation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist

import numpy as np

from nmtasync.config.schema import Config
from nmtasync.config.simulation import exact
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.server.wire import Wire
from nmtasync.worker.gradient_dropping import drop_rate_at, num_kept

_NANOSECONDS = 10**9


class CostModel:
    """The virtual time of computing a window and of sending vectors.

    Args:
        config: The experiment.
        corpus: The training corpus, for the words of a batch.
        speeds: Of the workers.
        num_parameters: P, the length of the vector that is exchanged.
        exchanged: How many of them travel to and from each worker; None for all.

    Attributes:
        receive_seconds: Of all parameters, from the server to a worker.
    """

    def __init__(
        self,
        config: Config,
        corpus: ParallelShards,
        speeds: list[Fraction],
        num_parameters: int,
        exchanged: Sequence[int] | None = None,
    ) -> None:
        options = config.simulation
        self.seed = config.training.seed
        self.jitter = options.speed_jitter
        self.corpus = corpus
        self.speeds = speeds
        self.seconds_per_batch = exact(options.seconds_per_batch)
        self.seconds_per_target_word = exact(options.seconds_per_target_word)
        self.latency_seconds = exact(options.exchange_latency_seconds)
        self.wire = Wire(config.asynchronous.exchange_precision)
        self.seconds_per_byte = Fraction(0)
        if options.exchange_bytes_per_second is not None:
            self.seconds_per_byte = 1 / exact(options.exchange_bytes_per_second)
        self.asynchronous = config.asynchronous
        self.num_parameters = num_parameters
        self.exchanged = exchanged or [num_parameters] * len(speeds)
        self.receive_seconds = self._transfer_seconds(self.wire.num_bytes(num_parameters))

    def _transfer_seconds(self, num_bytes: int) -> Fraction:
        return self.latency_seconds + num_bytes * self.seconds_per_byte

    def fetch_seconds(self, worker: int) -> Fraction:
        """How long the parameters that a worker does not have travel to it; no time, if none."""
        length = self.exchanged[worker]
        return self._transfer_seconds(self.wire.num_bytes(length)) if length else Fraction(0)

    def send_seconds(self, worker: int, pushes: int) -> Fraction:
        """How long a push travels from a worker to the server; no time, if it has nothing to push.

        Of a gradient that is dropped in part, what is kept travels, values and places; it is whole
        where that is shorter.

        Args:
            worker: Who pushes.
            pushes: Those that the worker has made before it.
        """
        length = self.exchanged[worker]
        if not length:
            return Fraction(0)
        if self.asynchronous.drop_rate is None:
            return self._transfer_seconds(self.wire.num_bytes(length))
        kept = num_kept(length, drop_rate_at(pushes, self.asynchronous))
        return self._transfer_seconds(self.wire.shortest(length, kept))

    def compute_seconds(self, worker: int, window: Sequence[AssignedBatch]) -> Fraction:
        """How long a worker computes a window."""
        return sum((self.batch_seconds(worker, batch) for batch in window), Fraction(0))

    def batch_seconds(self, worker: int, batch: AssignedBatch) -> Fraction:
        """How long a worker computes a batch."""
        words = target_words(self.corpus, batch)
        seconds = self.seconds_per_batch + words * self.seconds_per_target_word
        seconds /= self.speeds[worker]
        if self.jitter:
            factor = jitter_factor(self.jitter, self.seed, worker, batch.epoch, batch.index)
            seconds = Fraction(round(seconds * Fraction(factor) * _NANOSECONDS), _NANOSECONDS)
        return seconds


def target_words(corpus: ParallelShards, batch: AssignedBatch) -> int:
    """Count the target words of a batch, end of sentence included."""
    offsets, rows = corpus.target_offsets, np.asarray(batch.sentences)
    return int((offsets[rows + 1] - offsets[rows]).sum()) + len(rows)


def jitter_factor(deviation: float, seed: int, worker: int, epoch: int, index: int) -> float:
    """Draw by how much longer a batch takes than it ought to.

    The number depends on the arguments alone, so that there is no generator whose state a
    checkpoint would have to keep.

    Args:
        deviation: Relative standard deviation of the factor, whose mean is 1 and whose logarithm
            is normally distributed.
        seed: Of the run.
        worker: Who computes the batch.
        epoch: Of the batch.
        index: Of the batch.
    """
    name = f"jitter:{seed}:{worker}:{epoch}:{index}"
    bits = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 12
    normal = NormalDist().inv_cdf((bits + 0.5) / 2**52)
    variance = math.log1p(deviation**2)
    return math.exp(normal * math.sqrt(variance) - variance / 2)
