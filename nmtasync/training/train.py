"""The stage `train`: check what is asked for, put the run together, and drive it to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from nmtasync.checkpoints import store
from nmtasync.checkpoints.initialise_from import InitialModel, recorded_start
from nmtasync.checkpoints.load import read_config, read_state, refuse_other_architecture
from nmtasync.config.experiment import experiment_config
from nmtasync.config.load import Settings, read_toml, to_settings, to_toml
from nmtasync.config.schema import Config
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.machine.device import (
    allow_tf32,
    refuse_allocator_without_ipc,
    refuse_repeated_gpus,
    refuse_tf32_without_gpu,
    resolve_device,
    resolve_devices,
)
from nmtasync.run_directory import RunDirectory, explain_write_errors, write_atomically
from nmtasync.training.assembly import Assembly
from nmtasync.training.reporting.display import Display
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.worker.precision import choose_precision, with_precision


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
        vocabularies = VocabularyPair.load(run.vocab)
        digest = vocabularies.digest()
        latest = store.pointed(run, "latest") if resume else None
        state = None if latest is None else read_state(run, latest, digest)
        trained = None if state is None else read_config(state, run.checkpoints)
        config, initial = _resolve(run, settings, vocabularies, state, trained)
        devices = _devices(config)
        if config.training.tf32:
            refuse_tf32_without_gpu(devices)
        allow_tf32(devices[0], config.training.tf32)
        with Display(console, config.training) as display:
            precision, reason = choose_precision(config, trained, devices[0])
            display.message(f"precision {precision}: {reason}")
            decided = with_precision(config, precision)
            assembly = Assembly(run, decided, devices, digest, state, initial)
            # nothing has been written so far: a refused call changes nothing
            if state is None:
                store.discard_all(run)
            with explain_write_errors(run.config):
                write_atomically(run.config, to_toml(config))
            return assembly.train(display)


def _resolve(
    run: RunDirectory,
    settings: Settings,
    vocabularies: VocabularyPair,
    state: dict[str, Any] | None,
    trained: Config | None,
) -> tuple[Config, InitialModel | None]:
    """Resolve the configuration, and find the other run's model to start from if there is one.

    The network is that of the checkpoint to go on from, or to start from. `training.init_from`
    then names the checkpoint itself, since the best one of a run may change.
    """
    known = {**read_toml(run.config), **settings}
    init_from = known.get("training.init_from")
    if state is not None and trained is not None:
        settings = {**settings, "training.init_from": recorded_start(state, init_from)}
        config = experiment_config(run, settings)
        remedy = "start anew with --no-resume"
        refuse_other_architecture(to_settings(config), trained, run.checkpoints, remedy)
        return config, None
    if init_from is None:
        return experiment_config(run, settings), None
    initial = InitialModel(Path(init_from), run)
    inherited = initial.model_settings(known, vocabularies)
    settings = {**settings, "training.init_from": str(initial.path)}
    config = experiment_config(run, settings, inherited)
    refuse_other_architecture(to_settings(config), initial.config, initial.path)
    return config, initial


def _devices(config: Config) -> list[str]:
    names = config.asynchronous.devices
    if config.asynchronous.driver != "simulated":
        devices = resolve_devices(names)
        if config.asynchronous.driver == "synchronous":
            refuse_repeated_gpus(devices)
        else:
            refuse_allocator_without_ipc(devices)
        return devices
    devices = [resolve_device("auto")] if names == "auto" else resolve_devices(names)
    if len(devices) > 1:
        raise UserError(
            f"names {len(devices)} devices, but with asynchronous.driver = simulated everything "
            "is computed on one",
            where="asynchronous.devices",
            remedy="name one; simulation.speeds says how many workers there are",
        )
    return devices
