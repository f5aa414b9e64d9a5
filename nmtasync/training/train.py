"""The stage `train`: check what is asked for, put the run together, and drive it to its end."""

from __future__ import annotations

from rich.console import Console

from nmtasync.config.load import Settings, get, read_toml, resolve, to_toml
from nmtasync.config.option import OptionField
from nmtasync.config.schema import OPTIONS, Config
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, explain_write_errors, write_atomically
from nmtasync.training import checkpoint
from nmtasync.training.assembly import Assembly
from nmtasync.training.device import (
    allow_tf32,
    refuse_repeated_gpus,
    refuse_tf32_without_gpu,
    resolve_device,
    resolve_devices,
)
from nmtasync.training.display import Display
from nmtasync.training.precision import choose_precision, with_precision
from nmtasync.training.summary import TrainingSummary


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
        devices = _devices(config)
        if config.training.tf32:
            refuse_tf32_without_gpu(devices)
        allow_tf32(devices[0], config.training.tf32)
        digest = VocabularyPair.load(run.vocab).digest()
        latest = checkpoint.pointed(run, "latest") if resume else None
        state = None if latest is None else checkpoint.read_state(run, latest, digest)
        trained = None if state is None else checkpoint.read_config(state, run.checkpoints)
        if trained is not None:
            _check_same_model(config, trained)
        with Display(console, config.training) as display:
            precision, reason = choose_precision(config, trained, devices[0])
            display.message(f"precision {precision}: {reason}")
            decided = with_precision(config, precision)
            assembly = Assembly(run, decided, devices, digest, state)
            # nothing has been written so far: a refused call changes nothing
            if state is None:
                checkpoint.discard_all(run)
            with explain_write_errors(run.config):
                write_atomically(run.config, to_toml(config))
            return assembly.train(display)


def _devices(config: Config) -> list[str]:
    names = config.asynchronous.devices
    if config.asynchronous.driver != "simulated":
        devices = resolve_devices(names)
        if config.asynchronous.driver == "synchronous":
            refuse_repeated_gpus(devices)
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
