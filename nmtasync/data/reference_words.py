"""`schedule.reference_words` that are 'auto', counted on the corpus."""

from __future__ import annotations

import dataclasses

from nmtasync.config.schema import Config
from nmtasync.data.epochs import EpochPlans


def with_reference_words(config: Config, plans: EpochPlans, num_devices: int) -> Config:
    """Fill the reference words in where they are 'auto': a mean mini-batch of each device."""
    if config.schedule.reference_words != "auto":
        return config
    words = plans.mean_target_words() * num_devices
    schedule = dataclasses.replace(config.schedule, reference_words=max(1, round(words)))
    return dataclasses.replace(config, schedule=schedule)
