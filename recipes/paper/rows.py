"""The rows of the ablation: what each one changes, and its whole configuration.

A row is a base configuration (`rnn_small.toml`, ...) with overlays on it (`overlays/`), all of them
files that `nmtasync train --config` takes. Numbers of updates in these files are the baseline's;
they are converted to those in which a row sees as many words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nmtasync.config.load import Settings, merge, read_toml, resolve
from nmtasync.config.points import parse_points
from nmtasync.config.schema import Config
from nmtasync.config.simulation import parse_speeds
from nmtasync.data.epochs import EpochPlans
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory

OVERLAYS = Path(__file__).parent / "overlays"
AUTHORS_WORDS = 1920
"""The target words of the mini-batch that cost models are written for, the authors'."""
LARGER_BATCH = 2
"""How many of the baseline's mini-batches a larger one is."""
VALIDATED_OFTEN = 4
"""Rows that choose their windows validate so often in as many updates as the baseline."""

_WORD_SECONDS = "simulation.seconds_per_target_word"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: Of its directory.
        title: For people.
        overlays: What is laid over the base, by the names of the files.
    """

    name: str
    title: str
    overlays: tuple[str, ...] = ()

    @property
    def synchronous(self) -> bool:
        """Whether the workers sum their gradients for each update."""
        return "synchronous" in self.overlays

    @property
    def with_warmup(self) -> Row:
        """The same with a warm-up of the learning rate."""
        return replace(
            self,
            name=f"{self.name}-warmup",
            title=f"{self.title}, warm-up",
            overlays=(*self.overlays, "warmup"),
        )


BASELINE = Row("baseline", "asynchronous baseline", ("no-lead",))
_DELAY = ("no-lead", "larger-batch", "delay")
_LOCAL = (*_DELAY, "local-optimizers")
_FOR_DECAY = ("auto-windows", "looking-ahead")
_WITHOUT_WARMUP = (
    BASELINE,
    Row("baseline-decay", "baseline, linear decay", ("no-lead", "decay")),
    Row("larger-batch", "larger mini-batches", ("no-lead", "larger-batch")),
    Row("delay", "+ delay", _DELAY),
    Row("local-optimizers", "+ local optimizers", _LOCAL),
    Row("write-back", "+ local optimizers that write back", (*_LOCAL, "write-back")),
    Row("own-shard", "delay, own shard at once", (*_DELAY, "own-shard")),
    Row("momentum", "+ momentum tuning", (*_LOCAL, "momentum")),
    Row("baseline-looking-ahead", "baseline, looking ahead", ("looking-ahead",)),
    Row("auto-windows", "windows by noise", ("no-lead", "auto-windows", "by-words")),
    Row(
        "auto-windows-looking-ahead",
        "windows by noise, looking ahead",
        ("auto-windows", "by-words", "looking-ahead"),
    ),
    Row("auto-windows-for-decay", "windows by noise in place of decay", _FOR_DECAY),
    Row(
        "auto-own-shard",
        "windows in place of decay, own shard at once",
        (*_FOR_DECAY, "own-shard"),
    ),
    Row("synchronous", "synchronous", ("synchronous",)),
    Row(
        "synchronous-larger-batch",
        "synchronous, larger mini-batches",
        ("synchronous", "larger-batch"),
    ),
)
ROWS = tuple(row for plain in _WITHOUT_WARMUP for row in (plain, plain.with_warmup))


def find_rows(names: str, where: str = "--rows") -> list[Row]:
    """Look rows up by their names, with commas between them; "all" is every row.

    Args:
        names: The names.
        where: The option that holds them.

    Raises:
        UserError: There is no such row.
    """
    known = {row.name: row for row in ROWS}
    if names == "all":
        return list(ROWS)
    for name in names.split(","):
        if name not in known:
            raise UserError(f"no row {name!r}; there are {', '.join(known)}", where=where)
    return [known[name] for name in names.split(",")]


@dataclass(frozen=True)
class Machine:
    """What a row is trained on.

    Attributes:
        num_workers: How many there are.
        devices: Theirs, with commas between them; of simulated workers the one for all.
        costs: Settings of [simulation] if the workers are simulated, or None.
        threads: CPU threads of each worker; None for an even share of the cores.
        scale_costs: Whether a mini-batch of the baseline costs as much as one of the authors'.
    """

    num_workers: int
    devices: str
    costs: Settings | None
    threads: int | None
    scale_costs: bool = True

    def settings(self, row: Row, batch_words: float) -> Settings:
        """The settings of the workers for a row.

        Args:
            row: Which row.
            batch_words: The target words of a mean mini-batch of the baseline.

        Raises:
            UserError: There are not as many devices, or speeds, as workers.
        """
        settings: Settings = {"asynchronous.devices": self.devices}
        if self.threads is not None:
            settings["asynchronous.threads"] = self.threads
        if self.costs is None:
            self._check_number(len(self.devices.split(",")), "--devices")
            driver = "synchronous" if row.synchronous else "local"
            return {**settings, "asynchronous.driver": driver}
        speeds = ",".join(["1"] * self.num_workers)
        settings |= {"asynchronous.driver": "simulated", "simulation.speeds": speeds}
        settings |= {**self.costs, "simulation.synchronous": row.synchronous}
        if self.scale_costs and _WORD_SECONDS in settings:
            scaled = settings[_WORD_SECONDS] * AUTHORS_WORDS / batch_words
            settings[_WORD_SECONDS] = float(f"{scaled:.6g}")
        self._check_number(len(parse_speeds(settings["simulation.speeds"])), "simulation.speeds")
        return settings

    def _check_number(self, number: int, where: str) -> None:
        if number != self.num_workers:
            raise UserError(
                f"names {number}, but --workers is {self.num_workers}",
                where=where,
                remedy="name one for each worker",
            )


def read_costs(path: Path) -> Settings:
    """Read a cost model: the section [simulation] of a config file.

    Raises:
        UserError: The file can't be read, or has other sections.
    """
    costs = read_toml(path)
    for name in costs:
        if not name.startswith("simulation."):
            raise UserError(f"has {name}, but a cost model is [simulation] alone", where=path)
    return costs


@dataclass(frozen=True)
class _Epoch:
    """An epoch of the baseline.

    Attributes:
        num_batches: Its mini-batches, and updates.
        batch_words: The target words of a mean mini-batch, end of sentence counted.
    """

    num_batches: int
    batch_words: float

    @classmethod
    def of(cls, run: RunDirectory, config: Config) -> _Epoch:
        """Measure it on the corpus."""
        corpus = ParallelShards.open(run.data / "train")
        plans = EpochPlans.of(corpus, config)
        return cls(plans.num_batches(0), plans.mean_target_words())


def row_config(
    run: RunDirectory,
    base: Settings,
    row: Row,
    machine: Machine,
    seed: int,
    epochs: int,
    rate: float | None = None,
) -> Config:
    """Resolve the configuration of a row.

    Args:
        run: The preprocessed corpus.
        base: What all rows share.
        row: Which row.
        machine: The workers.
        seed: Of initialisation, order and dropout.
        epochs: How often each row reads the corpus.
        rate: A learning rate of the row's own, before it is scaled by words; None is the base's.

    Raises:
        UserError: The settings contradict each other.
    """
    prepared = {f"data.{key}": value for key, value in run.read_manifest()["options"].items()}
    base = merge(prepared, base)
    baseline = resolve(base, {"training.max_epochs": epochs})
    epoch = _Epoch.of(run, baseline)
    settings = merge(
        {"training.validate_every": epoch.num_batches},
        base,
        *(read_toml(OVERLAYS / f"{name}.toml") for name in row.overlays),
        machine.settings(row, epoch.batch_words),
        {"training.seed": seed, "training.max_epochs": epochs},
    )
    growth = LARGER_BATCH if "larger-batch" in row.overlays else 1
    settings["data.batch_tokens"] = growth * baseline.data.tokens_per_batch
    if "momentum" in row.overlays:
        settings["optimizer.beta_points"] = _change_at(
            settings["optimizer.beta_points"], epochs * epoch.num_batches // 2
        )
    own = resolve(settings)
    settings.update(_converted(settings, growth, _batches_per_update(own, row, machine, growth)))
    ranks = machine.num_workers if row.synchronous else 1
    settings["schedule.learning_rate"] = own.schedule.learning_rate if rate is None else rate
    if own.schedule.words_scaling == "sqrt":  # it grows linearly with ranks (synchronous.toml)
        settings["schedule.learning_rate"] *= math.sqrt(ranks)
    by_words = own.schedule.words_scaling != "none" or own.optimizer.betas_by_words
    if by_words and "schedule.reference_words" not in base:
        settings["schedule.reference_words"] = round(epoch.batch_words)
    return resolve(settings)


def _batches_per_update(own: Config, row: Row, machine: Machine, growth: int) -> float:
    """How many of the baseline's mini-batches one update of a row's shards is made of.

    Windows that are chosen in training count as one mini-batch, the least that they have.
    """
    if row.synchronous:
        return growth * machine.num_workers
    delay = own.asynchronous.optimizer_delay
    if isinstance(delay, str):
        return growth
    if own.asynchronous.own_shard == "batch":  # while N windows are pushed, N - 1 + delay updates
        return growth * delay * machine.num_workers / (machine.num_workers - 1 + delay)
    return growth * delay


def _change_at(points: str, update: int) -> str:
    """Move the last of two points of betas to an update."""
    first, last = points.split(",")
    return f"{first},{update}:{last.partition(':')[2]}"


def _converted(settings: Settings, per_batch: float, per_update: float) -> Settings:
    """Convert numbers that the baseline's clocks count to those of a row.

    Args:
        settings: Of the row, with the baseline's numbers.
        per_batch: How many of the baseline's mini-batches a mini-batch of the row is.
        per_update: How many of the baseline's updates an update of the row is.
    """

    def convert(number: int, ratio: float) -> int:
        return max(1, round(number / ratio)) if number else 0

    chosen = settings.get("asynchronous.optimizer_delay") == "auto"
    result: dict[str, Any] = {}
    for name, ratio in (
        ("training.validate_every", per_update * (VALIDATED_OFTEN if chosen else 1)),
        ("schedule.warmup_updates", per_update),
        ("asynchronous.delay_warmup_updates", per_update),
        ("asynchronous.local_optimizer_batches", per_batch),
    ):
        if isinstance(settings.get(name), int):
            result[name] = convert(settings[name], ratio)
    if settings.get("optimizer.beta_points") is not None:
        result["optimizer.beta_points"] = ",".join(
            f"{convert(p.number, per_update)}:{p.beta1}:{p.beta2}{'!' if p.held else ''}"
            for p in parse_points(settings["optimizer.beta_points"])
        )
    return result
