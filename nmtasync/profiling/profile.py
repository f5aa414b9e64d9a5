"""The stage `profile`: measure what a worker of RUN spends its time on, without training.

Phases are told apart by waiting for the device between them, which training does not do: on a
GPU their sum is more than a batch takes there.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nmtasync.config.experiment import experiment_config
from nmtasync.config.load import Settings
from nmtasync.config.schema import Config
from nmtasync.data.batches import Int64s
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.epochs import EpochPlans
from nmtasync.data.reference_words import with_reference_words
from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.machine.device import (
    allow_tf32,
    cores_per_worker,
    resolve_device,
    resolve_devices,
)
from nmtasync.machine.matrix_products import layer_seconds
from nmtasync.machine.precision import cpu_flags, has_bf16_units
from nmtasync.machine.processes import Child, serving
from nmtasync.models.build import build_model
from nmtasync.optim.flat import Layout
from nmtasync.profiling.figures import BatchCost, ExchangeCost, Profile
from nmtasync.run_directory import (
    RunDirectory,
    explain_write_errors,
    refuse_unwritable,
    write_atomically,
    write_json,
)
from nmtasync.server.messages import Push
from nmtasync.server.server import Server
from nmtasync.server.transport import Slot
from nmtasync.worker.gradient import WindowGradient, add_gradient
from nmtasync.worker.objective import refuse_without_alignments
from nmtasync.worker.precision import (
    choose_precision,
    compute_type,
    layer_shape,
    with_precision,
)

_EXCHANGES = 5
_HEADERS = 200

_IN_PLACE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * a[2] * b[2],
    torch.ops.aten.mv: lambda a, _, **__: 2 * a[0] * a[1],
}
"""Operations that PyTorch's counter does not know, from the shapes of their arguments."""

OnProgress = Callable[[str, int, int | None], None]


def profile(
    run: RunDirectory, settings: Settings, device: str, num_batches: int, on_progress: OnProgress
) -> Profile:
    """Measure a worker; `write_profile` keeps the result.

    Args:
        run: A preprocessed directory; it needs no checkpoint.
        settings: What this call sets, over RUN/config.toml.
        device: Where; "auto" is the first GPU or the CPU.
        num_batches: How many whole batches to measure, and as many parts of some.
        on_progress: Called with what is done, how much of it, and of how much.

    Raises:
        UserError: The configuration, the device or RUN is not usable, or RUN/logs can't be written.
    """
    config = experiment_config(run, settings)
    refuse_unwritable(run.logs)
    device = resolve_device(device, where="--device")
    allow_tf32(device, config.training.tf32)
    num_workers = len(resolve_devices(config.asynchronous.devices))
    threads = config.asynchronous.threads or cores_per_worker(num_workers)
    torch.set_num_threads(threads)
    config = with_precision(config, choose_precision(config, None, device).precision)
    measuring = _Measuring(run, config, device)
    plan = measuring.plan()[:num_batches]
    parts = [ids[: max(1, len(ids) // (2 + 2 * (i % 2)))] for i, ids in enumerate(plan)]
    measuring.measure(plan[0])  # what is only done once is none of the batches'
    delay = config.asynchronous.optimizer_delay
    figures = []
    for number, ids in enumerate([*plan, *parts]):
        on_progress("measuring", number, 2 * len(plan))
        figures.append(measuring.measure(ids))
    rows = int(sum(figure.target_words for figure in figures[: len(plan)]) / len(plan))
    return Profile(
        device=device,
        threads=threads,
        precision=config.training.precision,
        compiled=config.training.compile,
        batches=figures[: len(plan)],
        parts=figures[len(plan) :],
        exchange=measuring.exchange(),
        batches_per_push=delay if isinstance(delay, int) else 1,
        layer_ceiling=_ceiling(device, config, rows, *layer_shape(config.model)),
        square_ceiling=_ceiling(device, config, *[_square_side(device, config)] * 3),
        peak_bytes=_peak_bytes(device),
    )


def write_profile(run: RunDirectory, result: Profile) -> None:
    """Write RUN/logs/profile.json and RUN/logs/cost_model.toml.

    Raises:
        UserError: RUN/logs can't be written.
        NmtasyncError: The disk is full or broken.
    """
    with explain_write_errors(run.logs):
        run.logs.mkdir(parents=True, exist_ok=True)
        write_json(run.logs / "profile.json", result.to_json())
        write_atomically(run.logs / "cost_model.toml", result.cost_model().to_toml())


class _Measuring:
    """A worker in pieces."""

    def __init__(self, run: RunDirectory, config: Config, device: str) -> None:
        run.refuse_imported()
        self.device = device
        self.corpus = open_training_corpus(run, config)
        self.plans = EpochPlans.of(self.corpus, config)
        self.config = config = with_reference_words(config, self.plans, num_devices=1)
        refuse_without_alignments(self.corpus, config.training)
        vocabularies = VocabularyPair.load(run.vocab)
        torch.manual_seed(config.training.seed)
        model = build_model(config.model, vocabularies.source.size, vocabularies.target.size)
        initial = Layout.of(model).gather(model)
        shard_devices = None if device == "cpu" else [device]
        self.server = Server(initial, 1, config, 1, shard_devices)
        self.slot = Slot.allocate(self.server.size, device)
        self.flat = self.slot.replica(model)
        self.gradient = WindowGradient(self.flat, self.corpus, config)

    def plan(self) -> list[Int64s]:
        """The batches of the first epoch, or of its first stretch."""
        return self.plans.batches(0, 0)

    def measure(self, ids: Int64s) -> BatchCost:
        """Compute the gradient of a batch in phases, and once more to count its operations."""
        training, seconds = self.config.training, dict[str, float]()
        with self._timed(seconds, "data"):
            batch = self.gradient.collate(AssignedBatch(0, 0, ids))
        self.gradient.begin_sum()
        self.gradient.add(batch, training.seed, functools.partial(self._timed, seconds))
        with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
            add_gradient(self.gradient.begin(), batch, training, training.seed)  # uncompiled
        operations = counter.get_total_flops()
        return BatchCost(batch.target_words, batch.source_words, seconds, operations)

    def exchange(self) -> ExchangeCost:
        """Push and fetch some times over, in this process, and headers to another and back."""
        flat, slot, size = self.flat, self.slot, self.flat.size
        seconds: list[dict[str, float]] = []
        for sequence in range(1, _EXCHANGES + 1):
            once: dict[str, float] = {}
            flat.gradients.fill_(1e-3)
            push = Push(0, sequence, self.server.versions, target_words=1000, gradient_norm=1.0)
            with self._timed(once, "exchange"):
                self.server.exchange(push, slot.mailbox, slot.landing)
            with self._timed(once, "fetch"):
                self.server.fetch(slot.landing, 0)
            seconds.append(once)
        copying = min(once["fetch"] for once in seconds)
        both = min(once["exchange"] for once in seconds)
        return ExchangeCost(max(both - copying, 0.0), copying, _latency_seconds(), size)

    @contextlib.contextmanager
    def _timed(self, seconds: dict[str, float], phase: str) -> Iterator[None]:
        """Add the time that the context takes, the device's work included."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start

    def _wait(self) -> None:
        torch.get_device_module(self.device).synchronize(self.device)


def _latency_seconds() -> float:
    """Half the time that a header takes to another process and back; the median of many."""
    child = Child(echo, None, "echo")
    push = Push(0, 1, (0,), target_words=1000, gradient_norm=1.0)
    times = []
    for _ in range(_HEADERS):
        start = time.perf_counter()
        child.send(push)
        child.receive()
        times.append(time.perf_counter() - start)
    child.end()
    return statistics.median(times) / 2


def echo(_: None, connection: Connection) -> None:
    """Send everything back until the main process is gone."""
    with serving(connection):
        while True:
            connection.send(connection.recv())


def _ceiling(device: str, config: Config, rows: int, inputs: int, outputs: int) -> float:
    """Operations a second of a layer's matrix products."""
    dtype = compute_type(config.training.precision)
    return 6 * rows * inputs * outputs / layer_seconds(device, dtype, rows, inputs, outputs)


def _square_side(device: str, config: Config) -> int:
    """As large as matters, where it is soon done."""
    if device != "cpu":
        return 4096
    slow = config.training.precision != "fp32" and not has_bf16_units(cpu_flags())
    return 128 if slow else 1024


def _peak_bytes(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
