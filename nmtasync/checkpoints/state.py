"""The state of training at one moment: all that is needed to go on besides the vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from nmtasync.config.load import convert, find_option, resolve
from nmtasync.config.schema import Config
from nmtasync.data.cursor import DataPosition
from nmtasync.untrusted import Integer, typed

Numbers = dict[str, int]
"""Integers by name: the clocks of a worker, or what a rule counts."""

MAX_ROLLBACKS_READ = 100
"""More than that leave nothing of a learning rate."""

_OF_DRIVERS = ("simulation", "replay")
_AS_THEY_ARE: dict[str, Any] = {
    "vocabulary": str,
    "time_seconds": float,
    "updates": int,
    "epoch": float,
    "rule": Numbers,
    "to_validate": bool,
    "versions": tuple[int, ...],
    "last_sequences": dict[int, int],
    "workers": dict[int, dict[str, Integer]],
}
_LATER: dict[str, Any] = {
    "initialised_from": dict[str, str] | None,
    "rollbacks": int,
    "exchange_log_bytes": int | None,
    "virtual_seconds": Fraction | None,
    "measured": dict[str, Any],
    "averaged": tuple[int, ...],
}
"""The types of fields; earlier versions did not keep those of `_LATER`."""


@dataclass(frozen=True)
class Totals:
    """What has been done, over all resumes.

    Attributes:
        batches: Mini-batches, of all workers.
        pushes: Pushes that were applied.
        target_words: Target words behind them.
        source_words: Source words behind them.
        non_finite_pushes: Pushes that were dropped, since they were not finite.
        split_batches: Mini-batches that were computed in parts, since memory did not suffice.
        padding: What was computed besides the words of both sides; earlier versions did not count
            it.
        bytes_sent: Of all pushes; earlier versions did not count these, as they were between hosts.
        bytes_received: Of the parameters that answered them, likewise.
    """

    batches: int = 0
    pushes: int = 0
    target_words: int = 0
    source_words: int = 0
    non_finite_pushes: int = 0
    split_batches: int = 0
    padding: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def padding_share(self) -> float | None:
        """What share of all that was computed was padding, from 0 to 1; None of nothing."""
        computed = self.source_words + self.target_words + self.padding
        return self.padding / computed if computed else None

    def and_a_push(
        self, batches: int, target_words: int, source_words: int, padding: int
    ) -> Totals:
        """Count a push that was applied."""
        return dataclasses.replace(
            self,
            batches=self.batches + batches,
            pushes=self.pushes + 1,
            target_words=self.target_words + target_words,
            source_words=self.source_words + source_words,
            padding=self.padding + padding,
        )

    def and_bytes(self, sent: int, received: int) -> Totals:
        """Count the payloads of a push and of its answer."""
        return dataclasses.replace(
            self,
            bytes_sent=self.bytes_sent + sent,
            bytes_received=self.bytes_received + received,
        )

    def and_split(self, batches: int) -> Totals:
        """Count batches that were computed in parts."""
        return dataclasses.replace(self, split_batches=self.split_batches + batches)

    def and_one_not_finite(self) -> Totals:
        """Count a push that was dropped."""
        return dataclasses.replace(self, non_finite_pushes=self.non_finite_pushes + 1)


@dataclass(frozen=True)
class TrainingState:
    """The state of training at one moment.

    Attributes:
        config: What is trained, and how.
        vocabulary: Hash of RUN/vocab.
        initialised_from: Which checkpoint of another run this one began from, if any.
        time_seconds: Since training began, over resumes; virtual where training is simulated.
        updates: Of the shards.
        epoch: How far training has come in the corpus.
        totals: What has been done.
        cursor: The data position.
        versions: Of each shard.
        rule: What the rule of the shards counts.
        last_sequences: The number of the last push taken from each worker.
        workers: The clocks of the workers, as far as they were known, by their index.
        rollbacks: How often training has diverged and gone back, each time to half the rate.
        to_validate: Whether this moment was to be validated.
        exchange_log_bytes: The length of the log of exchanges, if there is one.
        virtual_seconds: The exact time, where it is virtual.
        measured: What was measured of noise, lateness and times, on which choices depend.
        averaged: The updates of the checkpoints whose mean the model is, if it is a mean; all else
            is that of the newest of them then.
        driver: What the driver keeps besides, for JSON, under its own name.
    """

    config: Config
    vocabulary: str
    initialised_from: dict[str, str] | None = None
    time_seconds: float = 0.0
    updates: int = 0
    epoch: float = 0.0
    totals: Totals = field(default_factory=Totals)
    cursor: DataPosition = field(default_factory=DataPosition)
    versions: tuple[int, ...] = ()
    rule: Numbers = field(default_factory=dict)
    last_sequences: dict[int, int] = field(default_factory=dict)
    workers: dict[int, Numbers] = field(default_factory=dict)
    rollbacks: int = 0
    to_validate: bool = False
    exchange_log_bytes: int | None = None
    virtual_seconds: Fraction | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    averaged: tuple[int, ...] = ()
    driver: dict[str, Any] = field(default_factory=dict)

    def batches_of(self, worker: int) -> int:
        """How many batches a worker has computed."""
        return self.workers.get(worker, {}).get("batches", 0)

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint's state.json holds."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del content["totals"], content["driver"]
        return {
            **content,
            **self.driver,
            "batches": self.totals.batches,
            "progress": asdict(self.totals),
            "cursor": asdict(self.cursor),
            "virtual_seconds": None if self.virtual_seconds is None else str(self.virtual_seconds),
            "config": asdict(self.config),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: Path) -> TrainingState:
        """Read what `to_json` returned; what earlier versions did not keep has its default.

        Args:
            content: Of state.json.
            where: The checkpoint, for errors.

        Raises:
            KeyError: Something is missing.
            ValueError: Something is damaged.
            UserError: The config can't be read.
        """
        later = {name: kind for name, kind in _LATER.items() if name in content}
        state = cls(
            config=_read_config(content["config"], where),
            totals=typed(Totals, content["progress"], "progress"),
            cursor=typed(DataPosition, content["cursor"], "cursor"),
            driver={name: content[name] for name in _OF_DRIVERS if name in content},
            **{
                name: typed(kind, content[name], name)
                for name, kind in (_AS_THEY_ARE | later).items()
            },
        )
        if state.rollbacks > MAX_ROLLBACKS_READ:
            raise ValueError(f"rollbacks can't be {state.rollbacks}")
        origin = state.initialised_from
        if origin is not None and not {"given", "checkpoint"} <= origin.keys():
            raise ValueError("initialised_from names no checkpoint")
        return state


def _read_config(content: Any, where: Path) -> Config:
    settings = {}
    for section, options in typed(dict[str, dict[str, Any]], content, "config").items():
        for key, value in options.items():
            option = find_option(f"{section}.{key}", where=where)
            settings[option.name] = convert(option, value, where=where)
    return resolve(settings)
