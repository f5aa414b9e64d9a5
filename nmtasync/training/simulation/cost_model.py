"""How long things take in a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from nmtasync.config.schema import Config
from nmtasync.config.simulation import SimulatedWorker, exact, simulated_workers
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.server.wire import Wire
from nmtasync.training.simulation.chance import jitter_factor, jittered, to_nanoseconds
from nmtasync.worker.gradient_dropping import drop_rate_at, num_kept


@dataclass(frozen=True)
class Transfer:
    """How long a payload travels, in seconds.

    Attributes:
        occupied: For how long no other can pass.
        latency: What comes on top of it, while others pass.
    """

    occupied: Fraction
    latency: Fraction

    @property
    def seconds(self) -> Fraction:
        """Altogether."""
        return self.occupied + self.latency


@dataclass(frozen=True)
class Link:
    """What a transfer costs; attributes in seconds, and seconds for each byte."""

    latency: Fraction
    per_byte: Fraction

    @classmethod
    def of(cls, latency: float, bytes_per_second: float | None) -> Link:
        """Make one of what the options say; without a bandwidth it is infinite."""
        per_byte = Fraction(0) if bytes_per_second is None else 1 / exact(bytes_per_second)
        return cls(exact(latency), per_byte)

    def transfer(self, num_bytes: int) -> Transfer:
        """How long so many bytes travel."""
        return Transfer(num_bytes * self.per_byte, self.latency)


class CostModel:
    """The virtual time of computing a window and of sending vectors.

    Args:
        config: The experiment.
        corpus: The training corpus, for the words of a batch.
        size: P, the length of the parameter vector.
        exchanged: How many of them travel to and from each worker; None for all.

    Attributes:
        workers: Whose time it is.
        server_seconds: Of a push.
    """

    def __init__(
        self,
        config: Config,
        corpus: ParallelShards,
        size: int,
        exchanged: Sequence[int] | None = None,
    ) -> None:
        options = config.simulation
        self.seed = config.training.seed
        self.jitter, self.network_jitter = options.speed_jitter, options.network_jitter
        self.corpus = corpus
        self.workers = simulated_workers(config)
        self.hosts = [worker.host for worker in self.workers]
        self.seconds_per_batch = exact(options.seconds_per_batch)
        self.seconds_per_target_word = exact(options.seconds_per_target_word)
        self.server_seconds = exact(options.server_seconds)
        self.wire = Wire(config.asynchronous.exchange_precision)
        inside = options.exchange_latency_seconds, options.exchange_bytes_per_second
        between = options.network_latency_seconds, options.network_bytes_per_second
        self.inside, self.between = Link.of(*inside), Link.of(*between)
        self.asynchronous = config.asynchronous
        self.num_parameters = options.num_parameters or size
        self._sum_bytes = Wire("fp32").num_bytes(self.num_parameters)
        self.exchanged = [each * self.num_parameters // size for each in exchanged or ()]
        self.exchanged = self.exchanged or [self.num_parameters] * len(self.workers)

    def shares_network(self, worker: int) -> bool:
        """Whether a worker's exchanges pass the network interface of the server's host."""
        return self.hosts[worker] != self.hosts[0]

    def fetch_bytes(self, worker: int) -> int:
        """How many bytes the parameters are that a worker does not have; 0, if none."""
        return self.wire.num_bytes(self.exchanged[worker])

    def push_bytes(self, worker: int, pushes: int) -> int:
        """How many bytes a push is; 0, if the worker has nothing to push.

        Of a gradient that is dropped in part, what is kept travels, values and places; it is whole
        where that is shorter.

        Args:
            worker: Who pushes.
            pushes: Those that the worker has made before it.
        """
        length = self.exchanged[worker]
        if self.asynchronous.drop_rate is None or not length:
            return self.wire.num_bytes(length)
        kept = num_kept(length, drop_rate_at(pushes, self.asynchronous))
        return self.wire.shortest(length, kept)

    def transfer(
        self, worker: int, num_bytes: int, way: str = "", batch: AssignedBatch | None = None
    ) -> Transfer:
        """How long a payload travels between a worker and the server; no time, if it is empty.

        Args:
            worker: Which.
            num_bytes: Of the payload.
            way: Whether it is a "fetch" or a "push"; with `batch` it tells how the network varies.
            batch: The first of the window; None for what it takes on average.
        """
        if not num_bytes:
            return Transfer(Fraction(0), Fraction(0))
        if not self.shares_network(worker):
            return self.inside.transfer(num_bytes)
        travel = self.between.transfer(num_bytes)
        if not self.network_jitter or batch is None:
            return travel
        name = f"{way}:{self.seed}:{worker}:{batch.epoch}:{batch.index}"
        return Transfer(jittered(travel.occupied, self.network_jitter, name), travel.latency)

    def reduction_seconds(self) -> Fraction:
        """How long synchronous workers sum their gradients and share the parameters.

        Inside hosts, that is a reduce-scatter and an all-gather, in each of which a worker sends as
        many bytes as in a push. Between H hosts, a ring does both in 2 (H - 1) steps, in each of
        which every host sends an H-th of the vector.
        """
        num_bytes, num_hosts = self.wire.num_bytes(self.num_parameters), self.hosts[-1] + 1
        step = self.between.latency + self.between.per_byte * num_bytes / num_hosts
        alone = num_hosts > 1 and len(self.hosts) == num_hosts
        inside = Fraction(0) if alone else self.inside.transfer(num_bytes).seconds
        return 2 * inside + 2 * (num_hosts - 1) * step

    def compute_seconds(
        self, worker: int, window: Sequence[AssignedBatch], *, locally: bool = False
    ) -> list[Fraction]:
        """How long a worker computes each batch of a window, or its devices a batch each.

        The devices of a host take turns in the batches. They sum up their gradients inside the
        host, and are handed what comes of it: after each batch if it makes a local step, else
        after the window. So long is each of the last, and the slowest device's time before.

        Args:
            worker: Which.
            window: The batches.
            locally: Whether there is a local step after each batch of the devices.
        """
        whom = self.workers[worker]
        number = len(whom.devices)
        seconds = [self._seconds(whom, i % number, batch) for i, batch in enumerate(window)]
        if number == 1:
            return seconds
        gathering = 2 * self.inside.transfer(self._sum_bytes).seconds
        if locally:
            steps = (seconds[start : start + number] for start in range(0, len(seconds), number))
            return [max(step) + gathering for step in steps]
        return [
            max(sum(seconds[place::number], Fraction(0)) for place in range(number)) + gathering
        ]

    def _seconds(self, worker: SimulatedWorker, place: int, batch: AssignedBatch) -> Fraction:
        words = target_words(self.corpus, batch)
        seconds = self.seconds_per_batch + words * self.seconds_per_target_word
        seconds /= worker.speeds[place]
        if self.jitter:
            device = worker.devices[place]
            factor = jitter_factor(self.jitter, self.seed, device, batch.epoch, batch.index)
            seconds = to_nanoseconds(seconds * Fraction(factor))
        return seconds


def target_words(corpus: ParallelShards, batch: AssignedBatch) -> int:
    """Count the target words of a batch, end of sentence included."""
    offsets, rows = corpus.target_offsets, np.asarray(batch.sentences)
    return int((offsets[rows + 1] - offsets[rows]).sum()) + len(rows)
