"""`data.batch_tokens` = fit: the largest mini-batches for which the workers' memory suffices.

A process of its own tries them: a server, a worker, and the batches that need the most memory, the
longest sentences and the shortest. What a batch takes beside all that stays is measured, and room
is left for what the other processes will hold (docs/memory.md): the server's state and its
snapshot, each worker's slots and optimizer, and the validator, which is given as much for a batch
as a worker. On a CPU, where nobody refuses memory, the next trial is never larger than the last
one lets expect to fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import torch

from nmtasync.config.schema import Config
from nmtasync.data.batches import Int64s
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import TrainingError, UserError
from nmtasync.machine import memory
from nmtasync.machine.device import allow_tf32, cores_per_worker
from nmtasync.machine.processes import Child, ChildEndedError, serving
from nmtasync.models.build import ModelSpec
from nmtasync.optim.flat import FlatModel, Layout
from nmtasync.run_directory import RunDirectory
from nmtasync.server.noise_scale import PAIR_EVERY
from nmtasync.server.server import Server
from nmtasync.training.driver import DriverKind
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import Worker

MOST_TOKENS = {"cpu": 16_384, "cuda": 131_072}
"""No budget is larger: beyond, a batch is no faster, and updates become rare."""

MIN_BATCHES = 100
"""So many batches of each worker an epoch has at least."""

SHARE = 0.9
"""What part of the free memory is planned with: allocators need some for themselves."""

_FIRST_TOKENS = 256
_CLOSE = 1.05
"""A budget is as good as one that is larger by so little."""

_PART = 1 << 20


@dataclass(frozen=True)
class TrialSetup:
    """What the process of trials needs to know.

    Attributes:
        run: The directory.
        config: The experiment.
        spec: The network.
        device: Where to try.
        num_workers: How many there will be.
        threads: CPU threads of each worker.
    """

    run: RunDirectory
    config: Config
    spec: ModelSpec
    device: str
    num_workers: int
    threads: int


@dataclass(frozen=True)
class Held:
    """Bytes that stay while batches come and go.

    Attributes:
        process: Of a process before it has anything of the model; on a GPU 0.
        parameters: Of one vector.
        server: Of the vectors of the server.
        worker: What a worker has besides.
    """

    process: int
    parameters: int
    server: int
    worker: int


class Fit(NamedTuple):
    """What was found: the budget, and the bytes that its batches take, and that there are."""

    tokens: int
    taken: int
    room: int

    @property
    def reason(self) -> str:
        """Why it is the budget, in words."""
        taken, room = (f"{size / 2**20:,.0f} MiB" for size in (self.taken, self.room))
        return f"its batches take up to {taken} of the {room} that each worker has for them"


def largest_fit(measure: Callable[[int], int | None], room: int, most: int) -> Fit | None:
    """Find the largest budget for which memory suffices.

    What a batch takes is assumed to grow no slower than its tokens once they are many.

    Args:
        measure: Tries a budget, in tokens; returns the bytes that it takes, or None where memory
            did not suffice.
        room: The bytes that there are.
        most: The largest budget that is wanted, in tokens.

    Returns:
        None if there is none.
    """
    best: Fit | None = None
    tokens, too_many = min(_FIRST_TOKENS, most), most + 1
    while True:
        taken = measure(tokens)
        if taken is None or taken > room:
            too_many = tokens
            if best is None:
                if tokens == 1:
                    return None
                tokens //= 2
                continue
        else:
            best = Fit(tokens, taken, room)
        expected = int(best.tokens * min(2.0, room / max(best.taken, 1)))
        if too_many <= most:  # and what is expected was too much, or may be
            expected = min(expected, (best.tokens + too_many) // 2)
        tokens = min(expected, most)
        if tokens == best.tokens or (tokens < _CLOSE * best.tokens and tokens < most):
            return best


def choose_batch_tokens(
    run: RunDirectory,
    config: Config,
    vocabularies: VocabularyPair,
    kind: DriverKind,
    devices: list[str],
) -> Fit:
    """Try what `data.batch_tokens` may be.

    Args:
        run: A preprocessed directory.
        config: The experiment, its precision decided.
        vocabularies: Those of RUN.
        kind: Which driver runs the workers.
        devices: Where each worker computes.

    Raises:
        UserError: Memory does not suffice for any batch.
        TrainingError: The trial failed.
    """
    device = devices[0]
    threads = config.asynchronous.threads or cores_per_worker(len(devices))
    spec = ModelSpec(config.model, vocabularies.source.size, vocabularies.target.size)
    setup = TrialSetup(run, config, spec, device, len(devices), threads)
    free = _free_bytes(device)
    child = Child(run_trials, setup, "trial of batches")

    def ask(tokens: int) -> int | None:
        child.send(tokens)
        answer: int | None = child.receive()
        return answer

    try:
        held: Held = child.receive()
        if device != "cpu":  # what the driver keeps for a process
            context = max(0, free - _free_bytes(device) - held.server - held.worker)
            held = dataclasses.replace(held, process=context)
        room = _room(held, int(SHARE * free), kind, devices)
        most = min(MOST_TOKENS[torch.device(device).type], _share_of(run, len(devices)))
        found = largest_fit(ask, room, most) if room > 0 else None
    except ChildEndedError:
        child.process.join()
        cause = child.cause_of_death(run.logs / "trial.log")
        raise TrainingError(
            f"the trial of how large batches may be {cause}",
            where="data.batch_tokens",
            remedy="set it to a number of tokens",
        ) from None
    finally:
        child.end()
    if found is None:
        raise UserError(
            f"is 'fit', but the {free / 2**20:,.0f} MiB that are free on {device} suffice for no "
            "batch",
            where="data.batch_tokens",
            remedy="use fewer workers or a smaller model, or end what else runs there",
        )
    return found


def with_batch_tokens(config: Config, tokens: int) -> Config:
    """Return the config with what "fit" has come to."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_tokens=tokens))


def _free_bytes(device: str) -> int:
    if device == "cpu":
        return memory.available_bytes()
    return int(torch.cuda.mem_get_info(device)[0])


def _share_of(run: RunDirectory, num_workers: int) -> int:
    """The tokens of the longer side of the corpus that a batch may have."""
    corpus = ParallelShards.open(run.data / "train")
    tokens = max(len(corpus.source_tokens), len(corpus.target_tokens)) + len(corpus)
    return max(1, tokens // (MIN_BATCHES * num_workers))


def _room(held: Held, free: int, kind: DriverKind, devices: list[str]) -> int:
    """What is left for a batch of each worker on the first device when everything stands."""
    if kind is DriverKind.INLINE:  # validation takes turns with training
        return free - held.server - held.parameters - held.worker
    num_here = devices.count(devices[0])
    snapshot = held.server if devices[0] == "cpu" else 0  # else it lies in the host's memory
    server = -(-held.server // len(set(devices))) + held.parameters
    workers = num_here * (held.worker + held.process)
    validator = 2 * held.parameters + held.process
    return (free - server - snapshot - workers - validator) // (num_here + 1)


def run_trials(setup: TrialSetup, connection: Connection) -> None:
    """Try batches until the main process closes the connection.

    Args:
        setup: What of.
        connection: Carries budgets in tokens from the main process; `Held`, then for each budget
            the bytes that its batches take, or None, and `Failure` to it.
    """
    with serving(connection):
        torch.set_num_threads(setup.threads)
        torch.get_device_module(setup.device).set_device(setup.device)
        allow_tf32(setup.device, setup.config.training.tf32)
        trial = _Trial(setup)
        connection.send(trial.held)
        while True:
            connection.send(trial.peak_bytes(connection.recv()))


class _Trial:
    """A server and a worker that train on the batches that need the most memory."""

    def __init__(self, setup: TrialSetup) -> None:
        self.device = setup.device
        self.corpus = open_training_corpus(setup.run, setup.config)
        self.extremes = _extremes(self.corpus)
        asynchronous = setup.config.asynchronous
        plain = dataclasses.replace(asynchronous, own_shard="window", local_write_back=False)
        training = dataclasses.replace(setup.config.training, compile=False)
        config = dataclasses.replace(setup.config, asynchronous=plain, training=training)
        process = memory.resident_bytes("RssAnon") if self.device == "cpu" else 0
        before = self._taken()
        model = setup.spec.build()
        initial = Layout.of(model).gather(model).to(self.device)
        self.server = Server(initial, 1, config, setup.num_workers)
        self.worker = Worker(
            WorkerPlace(0, 1, 1, None), FlatModel(model.to(self.device)), self.corpus, config
        )
        self.worker.versions = self.server.fetch(self.worker.flat.parameters, 0, 0)
        for _ in range(PAIR_EVERY + 1):  # until all is there that is there only once needed
            self._step(self.extremes[2:])
        self.standing = self._taken()
        vector = 4 * self.server.size
        server = vector * len(self.server.vectors)
        # the slots of a worker that overlaps, and the gradient of a batch for its own shards
        more = 2 * (asynchronous.num_slots - 1) + (asynchronous.own_shard == "batch")
        worker = max(self.standing - before - server, 2 * vector) + more * vector
        self.held = Held(process, vector, server, worker)

    def peak_bytes(self, tokens: int) -> int | None:
        """Return what batches of a budget take beside what stays; None if there is not as much."""
        most = 0
        for sentences in self._worst(tokens):
            self._forget_peak()
            if not self._step(sentences):
                return None
            most = max(most, self._peak() - self.standing)
        return most

    def _worst(self, tokens: int) -> Iterator[Int64s]:
        """Batches of the longest sides, and of the most sentences."""
        source, target, shortest = self.extremes
        lengths = np.maximum(*self.corpus.lengths_of(self.extremes)) + 1
        number = max(1, tokens // int(max(lengths[:2])))
        longer = source if lengths[0] > lengths[1] else target
        yield np.array([*[target] * (number - 1), source if number > 1 else longer])
        yield np.repeat(shortest, max(1, tokens // int(lengths[2])))

    def _step(self, sentences: Int64s) -> bool:
        """Train on a batch; return whether it was computed as a whole."""
        computed = self.worker.compute([AssignedBatch(0, 0, sentences)])
        flat = self.worker.flat
        reply = self.server.exchange(computed.push, flat.gradients, flat.parameters)
        self.worker.versions = reply.versions
        return not computed.figures.split_batches

    def _taken(self) -> int:
        if self.device == "cpu":
            return memory.resident_bytes()
        return torch.cuda.memory_allocated(self.device)

    def _peak(self) -> int:
        if self.device == "cpu":
            return memory.resident_bytes("VmHWM")
        return torch.cuda.max_memory_allocated(self.device)

    def _forget_peak(self) -> None:
        if self.device == "cpu":
            memory.forget_peak()
        else:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def _extremes(corpus: ParallelShards) -> Int64s:
    """The pairs with the longest source and the longest target, and the shortest pair: [3]."""
    best = np.zeros(3, np.int64)
    for start in range(0, len(corpus), _PART):
        ids = np.concatenate((best, np.arange(start, min(start + _PART, len(corpus)))))
        source, target = corpus.lengths_of(ids)
        found = source.argmax(), target.argmax(), np.maximum(source, target).argmin()
        best = ids[list(found)]
    return best
