"""A training run, put together out of its parts, or together again from a checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from nmtasync.checkpoints.history import ValidationHistory
from nmtasync.checkpoints.initialise_from import InitialModel
from nmtasync.checkpoints.load import read_config, read_vectors
from nmtasync.config.load import to_settings
from nmtasync.config.schema import Config
from nmtasync.config.simulation import parse_speeds
from nmtasync.data.batches import plan_epoch
from nmtasync.data.cursor import BatchCursor, Plan
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.machine.device import available_cores
from nmtasync.machine.signals import EXIT_CODES, on_stop_signal
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from nmtasync.server.server import Server
from nmtasync.training.asynchronous.in_process import InlineDriver, InProcessDriver, WorkerParts
from nmtasync.training.asynchronous.local import LocalDriver
from nmtasync.training.reporting.display import Display
from nmtasync.training.reporting.exchange_log import ExchangeLog, LoggedRun
from nmtasync.training.reporting.reporter import Reporter
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.training.session import Progress, Session, restore_server
from nmtasync.training.simulation.asynchronous import SimulatedDriver
from nmtasync.training.simulation.clock import VirtualClock
from nmtasync.training.simulation.recording import check_recording, read_exchange_log
from nmtasync.training.simulation.replay import ReplayDriver
from nmtasync.training.simulation.synchronous import SimulatedSynchronousDriver
from nmtasync.training.synchronous.rounds import SynchronousDriver
from nmtasync.worker.objective import refuse_without_alignments


def _virtual_clock(config: Config, state: dict[str, Any] | None) -> VirtualClock | None:
    if config.asynchronous.driver != "simulated":
        return None
    start = Fraction(0)
    if state is not None:  # real time, if it was not virtual before
        start = Fraction(state.get("virtual_seconds", str(state["time_seconds"])))
    minutes = config.training.max_minutes
    return VirtualClock(start, None if minutes is None else 60 * minutes)


def data_digest(run: RunDirectory) -> str:
    """Hash what RUN holds to train on, vocabulary included."""
    outputs = run.read_manifest()["outputs"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def _check_lengths(run: RunDirectory, max_length: int) -> None:
    """Refuse sentences that learned positions do not reach, before training comes upon them."""
    for part in ("train", "valid"):
        corpus = ParallelShards.open(run.data / part)
        longest = 1 + int(max(corpus.source_lengths.max(), corpus.target_lengths.max()))
        if longest > max_length:
            raise UserError(
                f"is {max_length}, but a sentence of {run.data / part} has {longest} pieces, its "
                "end counted",
                where="model.max_positions",
                remedy=f"set it to {longest} or more",
            )


class Assembly:
    """The parts of one call of `train`, in the order in which they are made.

    Nothing is written before `train` is called, so what can't be put together leaves RUN alone.

    Args:
        run: The directory.
        config: The experiment.
        devices: Where the workers compute; one, if this process computes.
        digest: Hash of the vocabulary.
        state: Of the checkpoint to go on from, or None.
        initial_model: Where to start from instead of random parameters; only without `state`.

    Raises:
        UserError: The parts do not fit together.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: Config,
        devices: list[str],
        digest: str,
        state: dict[str, Any] | None,
        initial_model: InitialModel | None,
    ) -> None:
        self.run, self.config, self.devices, self.digest = run, config, devices, digest
        self.state = state
        self.updates = 0 if state is None else int(state["updates"])
        vectors = None if state is None else read_vectors(run, self.updates)
        vocabularies = VocabularyPair.load(run.vocab)
        self.sizes = (vocabularies.source.size, vocabularies.target.size)
        self.corpus = ParallelShards.open(run.data / "train")
        refuse_without_alignments(self.corpus, config.training)
        self.data = data_digest(run)
        self.recording = None
        self.other_settings: list[str] = []
        if config.simulation.replay is not None:
            self.recording = read_exchange_log(Path(config.simulation.replay))
            self.other_settings = check_recording(self.recording, config, self.data, state)
        self.clock = _virtual_clock(config, state)
        self.num_workers = self._count_workers()
        overlapping = config.asynchronous.overlap and self.clock is None
        self.alone = len(devices) == 1 and not overlapping  # this process computes
        self.threads = config.asynchronous.threads or self._share_of_cores()
        torch.set_num_threads(self.threads if self.alone else 1)

        torch.manual_seed(config.training.seed)
        model = build_model(config.model, *self.sizes)
        self.initialised_from = None if state is None else state.get("initialised_from")
        self.kept_embeddings = ""
        if initial_model is not None:
            self.kept_embeddings = initial_model.initialise(model, vocabularies)
            self.initialised_from = initial_model.record()
        if model.max_length is not None:
            _check_lengths(run, model.max_length)
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.flat = FlatModel(model.to(devices[0] if self.alone else "cpu"))
        num_shards = config.asynchronous.num_shards or self.num_workers
        initial = self.flat.parameters.clone()
        try:
            self.server = Server(
                initial, num_shards, config, self.num_workers, self._shard_devices()
            )
        except ValueError as error:
            raise UserError(str(error), where="asynchronous.num_shards") from None
        self.cursor = BatchCursor(self._plan, config.training.max_epochs)
        if state is not None and vectors is not None:
            restore_server(self.server, vectors, state)
            self.cursor.restore(self._data_position(state))
        self.vectors = vectors or {}

    def _count_workers(self) -> int:
        if self.recording:
            return self.recording.num_workers
        if self.clock:
            return len(parse_speeds(self.config.simulation.speeds))
        return len(self.devices)

    def _shard_devices(self) -> list[str] | None:
        """The GPUs of several workers, to spread the shards over; None where there are none."""
        several = not self.alone and self.config.asynchronous.driver == "local"
        return list(dict.fromkeys(self.devices)) if several and self.devices[0] != "cpu" else None

    def _share_of_cores(self) -> int:
        if self.recording:  # sums depend on the number of threads
            return self.recording.starts[0].threads
        return max(1, available_cores() // len(self.devices))

    def _data_position(self, state: dict[str, Any]) -> dict[str, Any]:
        """Where to go on in the corpus: at the next epoch if this one is cut otherwise now."""
        trained = read_config(state, self.run.checkpoints)
        same_seed = trained.training.seed == self.config.training.seed
        if same_seed and trained.data.batch_tokens == self.config.data.batch_tokens:
            position: dict[str, Any] = state["cursor"]
            return position
        return {"epoch": state["cursor"]["epoch"] + 1, "position": 0, "returned": []}

    def _plan(self, epoch: int) -> Plan:
        lengths = self.corpus.source_lengths, self.corpus.target_lengths
        seed, batch_tokens = self.config.training.seed, self.config.data.batch_tokens
        return plan_epoch(*lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch)

    def _exchange_log(self) -> ExchangeLog | None:
        """Begin, or go on with, the log of a run of real workers."""
        if self.config.asynchronous.driver != "local":
            return None
        settings = to_settings(self.config)
        start = LoggedRun(self.updates, self.threads, self.data, settings)
        length = None if self.state is None else self.state.get("exchange_log_bytes")
        return ExchangeLog(self.run, start, length)

    def _session(self, reporter: Reporter, exchange_log: ExchangeLog | None) -> Session:
        state, metric = self.state, self.config.training.validate_metric
        seconds_before = 0.0 if state is None else float(state["time_seconds"])
        return Session(
            self.run,
            self.config,
            self.server,
            self.cursor,
            ValidationHistory(self.run, metric, self.updates),
            reporter,
            self.digest,
            Progress() if state is None else Progress(**state["progress"]),
            self.clock() if self.clock else seconds_before,
            self.clock or time.monotonic,
            exchange_log,
            self.initialised_from,
        )

    def train(self, display: Display) -> TrainingSummary:
        """Drive the run to its end."""
        reporter = Reporter(
            self.run,
            display,
            self.config.training.log_every_seconds,
            self.updates,
            self.clock or time.monotonic,
        )
        exchange_log = self._exchange_log()
        session = self._session(reporter, exchange_log)
        display.message(self._introduction())
        if self.kept_embeddings:
            display.message(
                f"initialised from {self.config.training.init_from}: {self.kept_embeddings}"
            )
        if self.other_settings:
            display.message(f"not as recorded: {', '.join(self.other_settings)}")

        def request_stop(reason: str) -> None:
            session.stop_request = reason
            display.message(f"{reason}: saving; once more to end at once")

        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(reporter))
            if exchange_log:
                stack.enter_context(contextlib.closing(exchange_log))
            stack.enter_context(on_stop_signal(request_stop))
            driver = self._driver(session)
            if not isinstance(driver, InProcessDriver):
                stack.callback(driver.close)
            try:
                if self._owes_validation(session):
                    driver.validate_restored()
                reason = driver.train()
            except Exception:
                if session.unsaved:
                    driver.finish(validate=False)
                raise
            reporter.flush(session.clocks())
            workers = reporter.time_spent()
            driver.finish(validate=reason not in EXIT_CODES)
            reason = session.stop_request or reason
            reporter.end(reason, workers, session.clocks())
        return TrainingSummary(
            reason=reason,
            exit_code=EXIT_CODES.get(reason, 0),
            seconds=session.seconds,
            updates=session.server.updates,
            epochs=session.cursor.epochs_done,
            source_words=session.progress.source_words,
            target_words=session.progress.target_words,
            best=session.history.best,
            workers=workers,
            num_parameters=self.num_parameters,
        )

    def _owes_validation(self, session: Session) -> bool:
        state = self.state
        done = session.history.includes(self.updates)
        return state is not None and bool(state["to_validate"]) and not done

    def _driver(self, session: Session) -> InProcessDriver | LocalDriver | SynchronousDriver:
        if not self.alone:
            workers = {} if self.state is None else self.state["workers"]
            batches = {int(index): counts["batches"] for index, counts in workers.items()}
            several = (session, self.devices, self.threads, self.sizes, batches)
            if self.config.asynchronous.driver == "synchronous":
                return SynchronousDriver(*several)
            return LocalDriver(*several)
        driver = self._in_process_driver(session)
        if self.state is not None:
            driver.restore(self.vectors, self.state)
        return driver

    def _in_process_driver(self, session: Session) -> InProcessDriver:
        parts = WorkerParts(self.flat, self.corpus, self.devices[0], self.sizes)
        if self.clock is None:
            return InlineDriver(session, parts, num_workers=1)
        if self.config.simulation.synchronous:
            return SimulatedSynchronousDriver(session, parts, self.clock)
        if self.recording is None:
            return SimulatedDriver(session, parts, self.clock)
        same = not self.other_settings
        return ReplayDriver(session, parts, self.clock, self.recording, same)

    def _introduction(self) -> str:
        names = ", ".join(self.devices)
        plural = "worker" if self.num_workers == 1 else "workers"
        kind = "simulated " if self.clock else ""
        several_ranks = not self.alone and self.config.asynchronous.driver == "synchronous"
        synchronous = several_ranks or self.config.simulation.synchronous
        start = f"resuming at update {self.updates:,}" if self.state else "starting"
        return (
            f"{start}: {self.config.model.type}, {self.num_parameters / 1e6:.1f} million "
            f"parameters; {len(self.corpus):,} pairs; {self.num_workers} {kind}{plural} ({names}), "
            f"{self.threads} thread(s) each, delay {self.config.asynchronous.optimizer_delay}"
            f"{', synchronous' if synchronous else ''}"
            f"{', overlap' if self.config.asynchronous.overlap else ''}"
        )
