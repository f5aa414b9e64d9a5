"""The stage `train`: check what is asked for, put the run together, and drive it to its end."""

from __future__ import annotations

import contextlib
import gc
from functools import partial
from pathlib import Path

from rich.console import Console

from nmtasync.checkpoints import store
from nmtasync.checkpoints.initialise_from import InitialModel, recorded_start
from nmtasync.checkpoints.load import read_state, refuse_other_architecture
from nmtasync.checkpoints.resume import ResumePoint, find_resume_point, set_aside_later
from nmtasync.checkpoints.state import TrainingState
from nmtasync.config.experiment import experiment_config
from nmtasync.config.load import Settings, read_toml, to_settings, to_toml
from nmtasync.config.schema import Config
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.machine.device import allow_tf32
from nmtasync.machine.matrix_products import layer_seconds
from nmtasync.run_directory import (
    RunDirectory,
    explain_write_errors,
    refuse_unwritable,
    write_atomically,
)
from nmtasync.training.assembly import Assembly
from nmtasync.training.changes import describe_changes, refuse_losses
from nmtasync.training.cluster.engine import Cluster, connected
from nmtasync.training.driver import DriverKind, choose_driver
from nmtasync.training.fitting import choose_batch_tokens, with_batch_tokens
from nmtasync.training.reporting.display import Display
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.training.rollback import RolledBackError
from nmtasync.worker.precision import choose_precision, with_precision


def train(
    run: RunDirectory,
    settings: Settings,
    *,
    resume: bool,
    console: Console,
    resume_from: int | None = None,
    accept_changes: bool = False,
) -> TrainingSummary:
    """Train until a limit is reached or someone stops it; always leave a checkpoint.

    Args:
        run: A preprocessed directory.
        settings: What this call sets, over RUN/config.toml.
        resume: Go on from the latest checkpoint; else discard all, when the new run stands.
        console: For the display.
        resume_from: Go on from this checkpoint instead; later ones are set aside.
        accept_changes: Go on even with another configuration that gives up a part of the state.

    Raises:
        UserError: The configuration or RUN is not usable.
        TrainingError: Training could not go on.
    """
    run.refuse_imported()  # before the lock, which would make the directory
    with run.lock():
        refuse_unwritable(run.checkpoints)  # now rather than when there is something to lose
        refuse_unwritable(run.logs)
        vocabularies = VocabularyPair.load(run.vocab)
        point = find_resume_point(run, resume_from) if resume else None
        state = None if point is None else read_state(run, point.updates, vocabularies.digest())
        config, initial = _resolve(run, settings, vocabularies, state)
        if state is not None and not accept_changes:
            refuse_losses(state, config)
        with contextlib.ExitStack() as stack:
            display = stack.enter_context(Display(console))
            kind, devices, cluster = _choose_workers(config, stack)
            measure = partial(cluster.run, layer_seconds) if cluster else layer_seconds
            allow_tf32(devices[0], config.training.tf32)
            trained = None if state is None else state.config
            precision, reason = choose_precision(config, trained, devices[0], measure)
            display.message(f"precision {precision}: {reason}")
            if config.data.batch_tokens == "fit":
                trial = with_precision(config, precision)
                config = _fitted(run, config, trial, vocabularies, kind, devices, display)
            decided = with_precision(config, precision)

            def begin() -> None:
                if not resume:
                    store.discard_all(run)
                if point is not None and state is not None:
                    _show_start(run, point, describe_changes(state, decided), display)
                _save(run, config)

            while True:
                parts = run, decided, kind, devices, vocabularies, state, initial
                assembly = Assembly(*parts, cluster)
                try:
                    return assembly.train(display, begin)
                except RolledBackError as back:
                    state, initial, resume, point = back.state, None, True, None
                del assembly  # its vectors go, in cycles as they are, before there are others
                gc.collect()


def _choose_workers(
    config: Config, stack: contextlib.ExitStack
) -> tuple[DriverKind, list[str], Cluster | None]:
    """Return the driver, where its workers compute, and their cluster until the stack is left."""
    if config.asynchronous.driver != "ray":
        return *choose_driver(config), None
    cluster = stack.enter_context(connected(config.asynchronous))
    return DriverKind.RAY, cluster.wanted.devices, cluster


def _fitted(
    run: RunDirectory,
    config: Config,
    trial: Config,
    vocabularies: VocabularyPair,
    kind: DriverKind,
    devices: list[str],
    display: Display,
) -> Config:
    """Return the config with the largest batches that fit, tried as `trial` says."""
    fit = choose_batch_tokens(run, trial, vocabularies, kind, devices)
    display.message(f"batch_tokens {fit.tokens:,}: {fit.reason}")
    return with_batch_tokens(config, fit.tokens)


def _save(run: RunDirectory, config: Config) -> None:
    with explain_write_errors(run.config):
        write_atomically(run.config, to_toml(config))


def _show_start(
    run: RunDirectory, point: ResumePoint, changes: list[str], display: Display
) -> None:
    if point.message:
        display.message(point.message)
    if names := set_aside_later(run, point.updates):
        display.message(f"later checkpoints are kept as {', '.join(names)} in {run.checkpoints}")
    for line in changes:
        display.message(line)


def _resolve(
    run: RunDirectory,
    settings: Settings,
    vocabularies: VocabularyPair,
    state: TrainingState | None,
) -> tuple[Config, InitialModel | None]:
    """Resolve the configuration, and find the other run's model to start from if there is one.

    The network is that of the checkpoint to go on from, or to start from. `training.init_from`
    then names the checkpoint itself, since the best one of a run may change.
    """
    known = {**read_toml(run.config), **settings}
    init_from = known.get("training.init_from")
    if state is not None:
        origin = recorded_start(state.initialised_from, init_from)
        config = experiment_config(run, {**settings, "training.init_from": origin})
        remedy = "start anew with --no-resume"
        refuse_other_architecture(to_settings(config), state.config, run.checkpoints, remedy)
        if config.data.batch_tokens == "fit":  # which was found when training began
            config = with_batch_tokens(config, state.config.data.tokens_per_batch)
        return config, None
    if init_from is None:
        return experiment_config(run, settings), None
    initial = InitialModel(Path(init_from), run)
    inherited = initial.model_settings(known, vocabularies)
    settings = {**settings, "training.init_from": str(initial.path)}
    config = experiment_config(run, settings, inherited)
    refuse_other_architecture(to_settings(config), initial.config, initial.path)
    return config, initial
