"""The stage `train`: put a run together, or together again, and drive it to its end."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from nmtasync.config.load import Settings, get, read_toml, resolve, to_toml
from nmtasync.config.option import OptionField
from nmtasync.config.schema import OPTIONS, Config
from nmtasync.data.batches import plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory, explain_write_errors, write_atomically
from nmtasync.server.server import Server
from nmtasync.training import checkpoint
from nmtasync.training.cursor import BatchCursor, Plan
from nmtasync.training.device import available_cores, refuse_repeated_gpus, resolve_devices
from nmtasync.training.display import Display
from nmtasync.training.history import Validation, ValidationHistory
from nmtasync.training.inline import InlineDriver
from nmtasync.training.local import LocalDriver
from nmtasync.training.reporting import Reporter, TimeSpent
from nmtasync.training.session import Progress, Session
from nmtasync.training.signals import EXIT_CODES, on_stop_signal
from nmtasync.training.synchronous import SynchronousDriver


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run has come to.

    Attributes:
        reason: Why it ended.
        exit_code: For the process.
        seconds: Time since training began, over resumes.
        updates: Of the shards.
        epochs: How often the corpus was read.
        source_words: Seen in training, over resumes.
        target_words: Likewise.
        best: The best validation, if there was one.
        workers: What share of the time each worker computed, exchanged and waited.
        num_parameters: Of the model, tied ones counted once.
    """

    reason: str
    exit_code: int
    seconds: float
    updates: int
    epochs: float
    source_words: int
    target_words: int
    best: Validation | None
    workers: dict[int, TimeSpent]
    num_parameters: int


def experiment_config(run: RunDirectory, settings: Settings) -> Config:
    """Resolve the configuration of a preprocessed RUN: its config.toml, then `settings`.

    Raises:
        UserError: RUN is not preprocessed, or `settings` contradict how it was.
    """
    manifest = run.read_manifest()
    kept = read_toml(run.config)
    for name, value in settings.items():
        if _belongs_to_preprocessing(OPTIONS[name]) and value != (
            there := manifest["options"][OPTIONS[name].key]
        ):
            raise UserError(
                f"is {value!r}, but {run.root} was preprocessed with {there!r}",
                where=name,
                remedy="leave it out or preprocess again",
            )
    return resolve(kept, settings)


def _belongs_to_preprocessing(field: OptionField) -> bool:
    return field.section == "data" and "train" not in field.about.stages


def train(
    run: RunDirectory, settings: Settings, *, resume: bool, console: Console
) -> TrainingSummary:
    """Train until a limit is reached or someone stops it; always leave a checkpoint.

    Args:
        run: A preprocessed directory.
        settings: What this call sets, over RUN/config.toml.
        resume: Go on from the latest checkpoint; otherwise discard what is there.
        console: For the display.

    Raises:
        UserError: The configuration or RUN is not usable.
        TrainingError: Training could not go on.
    """
    run.read_manifest()  # before the lock, which would make the directory
    with run.lock():
        config = experiment_config(run, settings)
        devices = resolve_devices(config.asynchronous.devices)
        if config.asynchronous.driver == "synchronous":
            refuse_repeated_gpus(devices)
        digest = VocabularyPair.load(run.vocab).digest()
        latest = checkpoint.pointed(run, "latest") if resume else None
        state = None if latest is None else checkpoint.read_state(run, latest, digest)
        if state is not None:
            _check_same_model(config, checkpoint.read_config(state, run.checkpoints))
        with Display(console, config.training) as display:
            parts = _Run(run, config, devices, digest, state)
            # nothing has been written so far: a refused call changes nothing
            if state is None:
                checkpoint.discard_all(run)
            with explain_write_errors(run.config):
                write_atomically(run.config, to_toml(config))
            return parts.train(display)


def _check_same_model(config: Config, trained: Config) -> None:
    for name, field in OPTIONS.items():
        if field.section == "model" and field.key != "dropout":
            now, then = get(config, name), get(trained, name)
            if now != then:
                raise UserError(
                    f"is {now!r}, but the checkpoint was trained with {then!r}",
                    where=name,
                    remedy="leave it as it was, or start anew with --no-resume",
                )


class _Run:
    """The parts of one call of `train`, in the order in which they are made."""

    def __init__(
        self,
        run: RunDirectory,
        config: Config,
        devices: list[str],
        digest: str,
        state: dict[str, Any] | None,
    ) -> None:
        self.run, self.config, self.devices, self.digest = run, config, devices, digest
        self.state = state
        self.updates = 0 if state is None else int(state["updates"])
        vectors = None if state is None else checkpoint.read_vectors(run, self.updates)
        vocabularies = VocabularyPair.load(run.vocab)
        self.sizes = (vocabularies.source.size, vocabularies.target.size)
        self.corpus = ParallelShards.open(run.data / "train")
        self.alone = len(devices) == 1
        cores = available_cores()
        per_worker = config.asynchronous.threads or max(1, cores // len(devices))
        self.threads = per_worker
        torch.set_num_threads(per_worker if self.alone else 1)

        torch.manual_seed(config.training.seed)
        model = build_model(config.model, *self.sizes)
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.flat = FlatModel(model.to(devices[0] if self.alone else "cpu"))
        num_shards = config.asynchronous.num_shards or len(devices)
        initial = self.flat.parameters.clone()
        try:
            self.server = Server(initial, num_shards, config, len(devices))
        except ValueError as error:
            raise UserError(str(error), where="asynchronous.num_shards") from None
        self.cursor = BatchCursor(self._plan, config.training.max_epochs)
        if state is not None and vectors is not None:
            sequences = {int(k): v for k, v in state["last_sequences"].items()}
            self.server.restore(vectors, self.updates, sequences, state["rule"])
            self.cursor.restore(self._data_position(state))
        self.vectors = vectors or {}

    def _data_position(self, state: dict[str, Any]) -> dict[str, Any]:
        """Where to go on in the corpus: at the next epoch if this one is cut otherwise now."""
        trained = checkpoint.read_config(state, self.run.checkpoints)
        same_seed = trained.training.seed == self.config.training.seed
        if same_seed and trained.data.batch_tokens == self.config.data.batch_tokens:
            position: dict[str, Any] = state["cursor"]
            return position
        return {"epoch": state["cursor"]["epoch"] + 1, "position": 0, "returned": []}

    def _plan(self, epoch: int) -> Plan:
        lengths = self.corpus.source_lengths, self.corpus.target_lengths
        seed, batch_tokens = self.config.training.seed, self.config.data.batch_tokens
        return plan_epoch(*lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch)

    def _session(self, reporter: Reporter) -> Session:
        state, metric = self.state, self.config.training.validate_metric
        return Session(
            self.run,
            self.config,
            self.server,
            self.cursor,
            ValidationHistory(self.run, metric, self.updates),
            reporter,
            self.digest,
            Progress() if state is None else Progress(**state["progress"]),
            0.0 if state is None else float(state["time_seconds"]),
        )

    def train(self, display: Display) -> TrainingSummary:
        """Drive the run to its end."""
        reporter = Reporter(self.run, display, self.config.training.log_every_seconds, self.updates)
        session = self._session(reporter)
        display.message(self._introduction())

        def request_stop(reason: str) -> None:
            session.stop_request = reason
            display.message(f"{reason}: saving; once more to end at once")

        with contextlib.closing(reporter), on_stop_signal(request_stop):
            driver = self._driver(session)
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

    def _driver(self, session: Session) -> InlineDriver | LocalDriver | SynchronousDriver:
        workers = {} if self.state is None else self.state["workers"]
        if self.alone:
            driver = InlineDriver(session, self.flat, self.corpus, self.devices[0])
            driver.restore(self.vectors, workers)
            return driver
        batches = {int(index): counts["batches"] for index, counts in workers.items()}
        several = (session, self.devices, self.threads, self.sizes, batches)
        if self.config.asynchronous.driver == "synchronous":
            return SynchronousDriver(*several)
        return LocalDriver(*several)

    def _introduction(self) -> str:
        names = ", ".join(self.devices)
        synchronous = not self.alone and self.config.asynchronous.driver == "synchronous"
        plural = "worker" if self.alone else "workers"
        start = f"resuming at update {self.updates:,}" if self.state else "starting"
        return (
            f"{start}: {self.config.model.type}, {self.num_parameters / 1e6:.1f} million "
            f"parameters; {len(self.corpus):,} pairs; {len(self.devices)} {plural} ({names}), "
            f"{self.threads} thread(s) each, delay {self.config.asynchronous.optimizer_delay}"
            f"{', synchronous' if synchronous else ''}"
        )
