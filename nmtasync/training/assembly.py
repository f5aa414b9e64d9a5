"""A training run, put together out of its parts, or together again from a checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import torch

from nmtasync.checkpoints.checksums import STATE
from nmtasync.checkpoints.initialise_from import InitialModel
from nmtasync.checkpoints.load import damaged, read_vectors
from nmtasync.checkpoints.retreat import retreat
from nmtasync.checkpoints.state import TrainingState
from nmtasync.config.languages import warn_of_missing_spaces
from nmtasync.config.load import to_settings
from nmtasync.config.schema import Config
from nmtasync.config.simulation import simulated_workers
from nmtasync.data.corpus import read_lines
from nmtasync.data.cursor import BatchCursor, DataPosition
from nmtasync.data.epochs import EpochPlans, same_batches
from nmtasync.data.reference_words import with_reference_words
from nmtasync.data.shards import TARGET_TEXT, ParallelShards
from nmtasync.data.training_corpus import open_training_corpus
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.machine.device import cores_per_worker
from nmtasync.machine.signals import EXIT_CODES, on_save_signal, on_stop_signal
from nmtasync.models.build import ModelSpec
from nmtasync.optim.flat import Layout
from nmtasync.run_directory import RunDirectory
from nmtasync.server.server import Server
from nmtasync.training.asynchronous.in_process import InlineDriver, InProcessDriver
from nmtasync.training.asynchronous.local import LocalDriver
from nmtasync.training.cluster.driver import RayDriver
from nmtasync.training.cluster.engine import Cluster
from nmtasync.training.divergence import DivergedError, slowed
from nmtasync.training.driver import Driver, DriverKind, RunParts
from nmtasync.training.reporting.display import Display
from nmtasync.training.reporting.exchange_log import ExchangeLog, LoggedRun
from nmtasync.training.reporting.reporter import Reporter, TimeSpent
from nmtasync.training.reporting.summary import NoiseSummary, TrainingSummary
from nmtasync.training.rollback import roll_back_if_asked
from nmtasync.training.session import Session, restore_server
from nmtasync.training.simulation.asynchronous import SimulatedDriver
from nmtasync.training.simulation.clock import VirtualClock
from nmtasync.training.simulation.recording import check_recording, read_exchange_log
from nmtasync.training.simulation.replay import ReplayDriver
from nmtasync.training.simulation.synchronous import SimulatedSynchronousDriver
from nmtasync.training.synchronous.rounds import SynchronousDriver
from nmtasync.worker.objective import refuse_without_alignments


class Assembly:
    """The parts of one call of `train`, in the order in which they are made.

    Nothing is written before `train` is called, so what can't be put together leaves RUN alone.

    Args:
        run: The directory.
        config: The experiment.
        kind: Which driver runs the workers.
        devices: Where the workers compute; one, if this process computes.
        vocabularies: Those of RUN.
        state: Of the checkpoint to go on from, or None.
        initial_model: Where to start from instead of random parameters; only without `state`.
        cluster: Where the workers are, if not on this machine.

    Raises:
        UserError: The parts do not fit together.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: Config,
        kind: DriverKind,
        devices: list[str],
        vocabularies: VocabularyPair,
        state: TrainingState | None,
        initial_model: InitialModel | None,
        cluster: Cluster | None = None,
    ) -> None:
        self.run, self.config, self.kind, self.devices = run, config, kind, devices
        self.cluster = cluster
        self.resumed = state is not None
        self.corpus = open_training_corpus(run, config)
        refuse_without_alignments(self.corpus, config.training)
        self.missing_spaces = _missing_spaces(run, config)
        self.data_digest = data_digest(run)
        self.recording = None
        self.not_as_recorded: list[str] = []
        if kind is DriverKind.REPLAY:
            self.recording = read_exchange_log(Path(config.simulation.replay or ""))
        self.num_devices = self._count_devices()
        self.num_workers = len(self.num_devices)
        self.plans = EpochPlans.of(self.corpus, config)
        config = with_reference_words(config, self.plans, sum(self.num_devices))
        if self.recording is not None:
            self.not_as_recorded = check_recording(self.recording, config, self.data_digest, state)
        self.settings = to_settings(config)
        self.config = config = slowed(config, 0 if state is None else state.rollbacks)
        threads = config.asynchronous.threads or self._share_of_cores()
        torch.set_num_threads(threads if kind.in_process else 1)

        torch.manual_seed(config.training.seed)
        spec = ModelSpec(config.model, vocabularies.source.size, vocabularies.target.size)
        model = spec.build()
        self.kept_embeddings = (
            "" if initial_model is None else initial_model.initialise(model, vocabularies)
        )
        self.corpus.refuse_other_vocabulary(spec.source_size, spec.target_size)
        if model.max_length is not None:
            _refuse_longer_sentences(run, model.max_length)
        layout = Layout.of(model)
        self.parts = RunParts(run, config, spec, layout, devices, threads, self.num_devices)
        self.server = self._build_server(self.parts.layout.gather(model))
        self.cursor = BatchCursor(self.plans, config.training.max_epochs)
        origin = None if initial_model is None else initial_model.record()
        self.start = state or TrainingState(config, vocabularies.digest(), origin)
        self.clock = _virtual_clock(kind, config, state)
        if self.clock:
            self.start = dataclasses.replace(self.start, time_seconds=self.clock())
        if state is not None:
            self.start = dataclasses.replace(self.start, cursor=self._data_position(state))
            with explained_damage(run, state):
                restore_server(self.server, self._vectors(state), state)
                self.cursor.restore(self.start.cursor)

    def _count_devices(self) -> tuple[int, ...]:
        """How many devices compute for each worker: all of its host, if hosts are workers."""
        if self.recording:
            return (self.recording.starts[0].num_devices,) * self.recording.num_workers
        if self.kind.simulated:
            return tuple(len(worker.devices) for worker in simulated_workers(self.config))
        return (self.cluster.wanted.num_devices if self.cluster else 1,) * len(self.devices)

    def _share_of_cores(self) -> int:
        if self.recording:  # sums depend on the number of threads
            return self.recording.starts[0].threads
        if self.cluster:
            return self.cluster.wanted.threads
        return cores_per_worker(len(self.devices))

    def _build_server(self, initial: torch.Tensor) -> Server:
        """Build the server that goes on from the initial parameters [P]."""
        num_shards = self.config.asynchronous.num_shards or self.num_workers
        if self.kind.in_process:
            initial = initial.to(self.devices[0])
        devices = self._shard_devices()
        try:
            return Server(initial, num_shards, self.config, self.num_workers, devices)
        except ValueError as error:
            raise UserError(str(error), where="asynchronous.num_shards") from None

    def _shard_devices(self) -> list[str] | None:
        """The GPUs of several workers, to spread the shards over; None where there are none."""
        spread = self.kind is DriverKind.LOCAL and self.devices[0] != "cpu"
        return list(dict.fromkeys(self.devices)) if spread else None

    def _data_position(self, state: TrainingState) -> DataPosition:
        """Where to go on in the corpus: at the next epoch if this one is cut otherwise now."""
        then, now, cursor = state.config, self.config, state.cursor
        same_stretches = cursor.stretch_pairs == self.plans.stretch_pairs
        same_stretches |= self.plans.num_stretches(cursor.epoch) == 1
        if same_batches(then, now) and same_stretches:
            return cursor
        return DataPosition(cursor.epoch + 1)

    def _vectors(self, state: TrainingState) -> dict[str, torch.Tensor]:
        return read_vectors(self.run, state.updates, self.server.size)

    def train(self, display: Display, begin: Callable[[], None]) -> TrainingSummary:
        """Drive the run to its end.

        Args:
            display: What the user sees.
            begin: What to do first, as soon as all processes stand; until then nothing that was
                there is touched.
        """
        with contextlib.ExitStack() as stack:
            clock, training = self.clock or time.monotonic, self.config.training
            updates, noise = self.start.updates, self.server.measured.noise
            reporter = Reporter(self.run, display, training, updates, noise, clock)
            stack.enter_context(contextlib.closing(reporter))
            exchange_log = _exchange_log(self)
            with explained_damage(self.run, self.start):
                session = Session(
                    self.parts,
                    self.server,
                    self.cursor,
                    reporter,
                    self.start,
                    clock,
                    exchange_log,
                )
            _introduce(self, display)
            ends = session.request_stop, training.preemption_signal, training.grace
            stack.enter_context(on_stop_signal(*ends))
            stack.enter_context(on_save_signal(session.saving.set))
            driver = self._driver(session)
            stack.callback(driver.close)
            begin()
            if exchange_log:
                exchange_log.begin()
                stack.enter_context(contextlib.closing(exchange_log))
            return self._drive(session, driver)

    def _drive(self, session: Session, driver: Driver) -> TrainingSummary:
        reporter, start = session.reporter, self.start
        try:
            if start.to_validate and not session.history.includes(start.updates):
                driver.validate_restored()
            reason = driver.train()
            if session.stop_request:  # not in the handler, which may interrupt what is printed
                reporter.display.message(f"{reason}: saving; once more to end at once")
        except DivergedError as error:
            driver.close()  # whatever is being written
            retreat(self.run, session.divergence.good, self.config.training.validate_metric)
            roll_back_if_asked(session, error, self.clock.seconds if self.clock else None)
            raise
        except Exception:
            if session.unsaved:
                driver.finish(validate=False)
            raise
        reporter.flush(session.clocks())
        workers = reporter.time_spent()
        driver.finish(validate=reason not in EXIT_CODES)
        reason = session.stop_request or reason
        reporter.end(reason, workers, session.totals, session.clocks())
        return _summarise(self, session, reason, workers)

    def _driver(self, session: Session) -> Driver:
        driver: InProcessDriver
        match self.kind:
            case DriverKind.LOCAL:
                return LocalDriver(session)
            case DriverKind.RAY:
                assert self.cluster
                return RayDriver(session, self.cluster)
            case DriverKind.SYNCHRONOUS:
                return SynchronousDriver(session)
            case DriverKind.INLINE:
                driver = InlineDriver(session, num_workers=1)
            case DriverKind.SIMULATED:
                assert self.clock
                driver = SimulatedDriver(session, self.clock)
            case DriverKind.SIMULATED_SYNCHRONOUS:
                assert self.clock
                driver = SimulatedSynchronousDriver(session, self.clock)
            case DriverKind.REPLAY:
                assert self.clock and self.recording
                same = not self.not_as_recorded
                driver = ReplayDriver(session, self.clock, self.recording, same)
        if self.resumed:
            with explained_damage(self.run, self.start):
                driver.restore(self._vectors(self.start), self.start)
        return driver


@contextlib.contextmanager
def explained_damage(run: RunDirectory, state: TrainingState) -> Iterator[None]:
    """Turn what can't be gone on with, because state.json does not say what it must, into an error.

    Raises:
        UserError: It is so.
    """
    try:
        yield
    except KeyError as error:
        reason = ValueError(f"it does not say {error}")
        raise damaged(run.checkpoints / str(state.updates) / STATE, reason) from None
    except (ValueError, TypeError, IndexError) as error:
        raise damaged(run.checkpoints / str(state.updates) / STATE, error) from None


def data_digest(run: RunDirectory) -> str:
    """Hash what RUN holds to train on, vocabulary included."""
    outputs = run.read_manifest()["outputs"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def _summarise(
    assembly: Assembly, session: Session, reason: str, workers: dict[int, TimeSpent]
) -> TrainingSummary:
    """Say what training has come to; `workers` is how each has spent its time."""
    totals, updates = session.totals, session.server.updates
    noise, scale = None, session.server.measured.noise.words
    if scale is not None and updates > 0:
        under_way = 1 if assembly.kind.synchronous else assembly.num_workers
        noise = NoiseSummary(scale, totals.target_words / updates, under_way)
    return TrainingSummary(
        reason=reason,
        exit_code=EXIT_CODES.get(reason, 0),
        seconds=session.seconds,
        updates=updates,
        epochs=session.cursor.epochs_done,
        source_words=totals.source_words,
        target_words=totals.target_words,
        non_finite_pushes=totals.non_finite_pushes,
        split_batches=totals.split_batches,
        rollbacks=session.start.rollbacks,
        best=session.history.best,
        workers=workers,
        num_parameters=assembly.parts.layout.num_parameters,
        padding=totals.padding_share,
        bytes_sent=totals.bytes_sent,
        bytes_received=totals.bytes_received,
        noise=noise,
    )


def _exchange_log(assembly: Assembly) -> ExchangeLog | None:
    """Begin, or go on with, the log of a run of real workers."""
    if assembly.kind not in (DriverKind.INLINE, DriverKind.LOCAL, DriverKind.RAY):
        return None
    state, threads = assembly.start, assembly.parts.threads
    entry = state.updates, threads, assembly.data_digest, assembly.settings
    rollbacks, num_devices = state.rollbacks or None, assembly.num_devices[0]
    start = LoggedRun(*entry, rollbacks=rollbacks, num_devices=num_devices)
    return ExchangeLog(assembly.run, start, assembly.start.exchange_log_bytes)


def _introduce(assembly: Assembly, display: Display) -> None:
    """Show what is trained, by whom, and what is unusual about it."""
    names, noun = ", ".join(assembly.devices), "worker"
    if assembly.config.asynchronous.hosts == "synchronous":
        (kind, *_), counts = assembly.devices[0].split(":"), assembly.num_devices
        names, noun = ", ".join(f"{number} x {kind}" for number in counts), "host"
    plural = noun if assembly.num_workers == 1 else f"{noun}s"
    start = f"resuming at update {assembly.start.updates:,}" if assembly.resumed else "starting"
    display.message(
        f"{start}: {assembly.config.model.type}, "
        f"{assembly.parts.layout.num_parameters / 1e6:.1f} million parameters; "
        f"{len(assembly.corpus):,} pairs; {assembly.num_workers} "
        f"{'simulated ' if assembly.kind.simulated else ''}{plural} ({names}), "
        f"{assembly.parts.threads} thread(s) each, "
        f"delay {assembly.config.asynchronous.optimizer_delay}"
        f"{', synchronous' if assembly.kind.synchronous else ''}"
        f"{', overlap' if assembly.config.asynchronous.overlap else ''}"
    )
    if assembly.kept_embeddings:
        origin = assembly.config.training.init_from
        display.message(f"initialised from {origin}: {assembly.kept_embeddings}")
    if assembly.missing_spaces:
        display.message(f"warning: the target side {assembly.missing_spaces}")
    if assembly.not_as_recorded:
        display.message(f"not as recorded: {', '.join(assembly.not_as_recorded)}")


def _missing_spaces(run: RunDirectory, config: Config) -> str | None:
    if not config.training.validate_bleu:
        return None
    references = read_lines(run.data / "valid" / TARGET_TEXT)
    return warn_of_missing_spaces(references, config.data.target_language)


def _virtual_clock(
    kind: DriverKind, config: Config, state: TrainingState | None
) -> VirtualClock | None:
    if not kind.simulated:
        return None
    start = Fraction(0)
    if state is not None:  # real time, if it was not virtual before
        start = state.virtual_seconds or Fraction(str(state.time_seconds))
    minutes = config.training.max_minutes
    return VirtualClock(start, None if minutes is None else 60 * minutes)


def _refuse_longer_sentences(run: RunDirectory, max_length: int) -> None:
    """Refuse sentences that learned positions do not reach, before training comes upon them."""
    for part in ("train", "valid"):
        corpus = ParallelShards.open(run.data / part)
        longest = 1 + max(corpus.longest())
        if longest > max_length:
            raise UserError(
                f"is {max_length}, but a sentence of {run.data / part} has {longest} pieces, its "
                "end counted",
                where="model.max_positions",
                remedy=f"set it to {longest} or more",
            )
