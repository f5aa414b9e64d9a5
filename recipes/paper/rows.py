"""The rows of the ablation: what each one changes, and its whole configuration.

A row is a base configuration (`transformer.toml`, `rnn.toml`) with overlays on it (`overlays/`),
all of them files that `nmtasync train --config` takes. Numbers of updates in these files are the
baseline's; they are converted to those in which a row sees as many words.
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
from nmtasync.data.batches import plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory

OVERLAYS = Path(__file__).parent / "overlays"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: Of its directory.
        title: For people.
        overlays: What is laid over the base, by the names of the files.
        learning_rate: Times the baseline's, besides what `schedule.words_scaling` gives.
    """

    name: str
    title: str
    overlays: tuple[str, ...] = ()
    learning_rate: float = 1.0

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
_DELAY = ("larger-batch", "delay")
_LOCAL = (*_DELAY, "local-optimizers")
_WITHOUT_WARMUP = (
    BASELINE,
    Row("larger-batch", "larger mini-batches", ("no-lead", "larger-batch")),
    Row("delay", "+ delay", ("no-lead", *_DELAY)),
    Row("local-optimizers", "+ local optimizers", ("no-lead", *_LOCAL)),
    Row("momentum", "+ momentum tuning", ("no-lead", *_LOCAL, "momentum")),
    Row("looking-ahead", "+ momentum that looks ahead instead", (*_LOCAL, "looking-ahead")),
    Row("baseline-looking-ahead", "baseline, looking ahead", ("looking-ahead",), 2.0),
    Row("synchronous", "synchronous", ("synchronous",)),
    Row(
        "synchronous-larger-batch",
        "synchronous, larger mini-batches",
        ("synchronous", "larger-batch"),
    ),
)
ROWS = tuple(row for plain in _WITHOUT_WARMUP for row in (plain, plain.with_warmup))


def find_rows(names: str) -> list[Row]:
    """Look rows up by their names, with commas between them; "all" is every row.

    Raises:
        UserError: There is no such row.
    """
    known = {row.name: row for row in ROWS}
    if names == "all":
        return list(ROWS)
    for name in names.split(","):
        if name not in known:
            raise UserError(f"no row {name!r}; there are {', '.join(known)}", where="--rows")
    return [known[name] for name in names.split(",")]


@dataclass(frozen=True)
class Machine:
    """What a row is trained on.

    Attributes:
        num_workers: How many there are.
        devices: Theirs, with commas between them; of simulated workers the one for all.
        costs: Settings of [simulation] if the workers are simulated, or None.
        threads: CPU threads of each worker; None for an even share of the cores.
    """

    num_workers: int
    devices: str
    costs: Settings | None
    threads: int | None

    def settings(self, row: Row) -> Settings:
        """The settings of the workers for a row.

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


def row_config(
    run: RunDirectory, base: Settings, row: Row, machine: Machine, seed: int, epochs: int
) -> Config:
    """Resolve the configuration of a row.

    Args:
        run: The preprocessed corpus.
        base: What all rows share.
        row: Which row.
        machine: The workers.
        seed: Of initialisation, order and dropout.
        epochs: How often each row reads the corpus.

    Raises:
        UserError: The settings contradict each other.
    """
    prepared = {f"data.{key}": value for key, value in run.read_manifest()["options"].items()}
    base = merge(prepared, base)
    settings = merge(
        base,
        *(read_toml(OVERLAYS / f"{name}.toml") for name in row.overlays),
        machine.settings(row),
        {"training.seed": seed, "training.max_epochs": epochs},
    )
    baseline, own = resolve(base), resolve(settings)
    ranks = machine.num_workers if row.synchronous else 1
    growth = own.data.batch_tokens / baseline.data.batch_tokens
    delay = own.asynchronous.optimizer_delay
    per_update = growth * (delay if isinstance(delay, int) else 1) * ranks
    settings.update(_converted(settings, growth, per_update))
    rate = row.learning_rate * own.schedule.learning_rate
    if own.schedule.words_scaling == "sqrt":
        rate *= math.sqrt(ranks)  # it grows linearly with the words of ranks (synchronous.toml)
    settings["schedule.learning_rate"] = rate
    if own.schedule.words_scaling != "none" and "schedule.reference_words" not in base:
        settings["schedule.reference_words"] = round(_words_of_a_batch(run, baseline))
    return resolve(settings)


def _converted(settings: Settings, per_batch: float, per_update: float) -> Settings:
    """Convert numbers that the baseline's clocks count to those of a row.

    Args:
        settings: Of the row, with the baseline's numbers.
        per_batch: How many of the baseline's mini-batches a mini-batch of the row is.
        per_update: How many of the baseline's updates an update of the row is.
    """

    def convert(number: int, ratio: float) -> int:
        return max(1, round(number / ratio)) if number else 0

    result: dict[str, Any] = {}
    for name, ratio in (
        ("training.validate_every", per_update),
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


def _words_of_a_batch(run: RunDirectory, config: Config) -> float:
    """The target words of a mean mini-batch, end of sentence counted."""
    corpus = ParallelShards.open(run.data / "train")
    plan = plan_epoch(
        corpus.source_lengths,
        corpus.target_lengths,
        batch_tokens=config.data.batch_tokens,
        seed=config.training.seed,
        epoch=0,
    )
    return (int(corpus.target_lengths.sum()) + len(corpus)) / len(plan)
