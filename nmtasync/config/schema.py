"""The configuration as a whole. Everything else about options is derived from here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nmtasync.config.option import OptionField, section_fields
from nmtasync.config.sections.asynchronous import AsynchronousConfig
from nmtasync.config.sections.data import DataConfig
from nmtasync.config.sections.decoding import DecodingConfig
from nmtasync.config.sections.model import ModelConfig
from nmtasync.config.sections.optimizer import OptimizerConfig
from nmtasync.config.sections.schedule import ScheduleConfig
from nmtasync.config.sections.simulation import SimulationConfig
from nmtasync.config.sections.training import TrainingConfig

__all__ = [
    "OPTIONS",
    "SECTIONS",
    "AsynchronousConfig",
    "Config",
    "DataConfig",
    "DecodingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "SimulationConfig",
    "TrainingConfig",
    "get",
]


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    asynchronous: AsynchronousConfig = field(default_factory=AsynchronousConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


SECTIONS: dict[str, type] = {
    section.name: section.default_factory  # type: ignore[misc]
    for section in dataclasses.fields(Config)
}

OPTIONS: dict[str, OptionField] = {
    field.name: field
    for section_name, section_type in SECTIONS.items()
    for field in section_fields(section_name, section_type)
}


def get(config: Config, name: str) -> Any:
    """Look an option up by its full name."""
    section, key = name.split(".")
    return getattr(getattr(config, section), key)
