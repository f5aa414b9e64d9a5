"""Options of the section `schedule`."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.option import has, lacks, option, train_flag


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate. Its clock is the updates of a shard; a linear decay has the limits."""

    learning_rate: float = train_flag(1e-3, "Learning rate at its peak.", minimum=0.0)
    warmup_updates: int = train_flag(
        400,
        "Raise the learning rate linearly for this long.",
        unit="updates",
        minimum=0,
    )
    decay: str = train_flag(
        "inverse-sqrt",
        "What follows the warm-up: peak times sqrt(warmup / updates); or a straight line to 0 at "
        "the end of training, which needs training.max_minutes, max_epochs or max_updates; or the "
        "peak for good.",
        choices=("inverse-sqrt", "linear", "none"),
    )
    words_scaling: str = train_flag(
        "none",
        "Scale the learning rate of an update with its target words over reference_words.",
        choices=("linear", "sqrt", "none"),
    )
    reference_words: int | str = option(
        1920,
        "The target words of an update for which the learning rate, and with betas_by_words "
        "Adam's betas, are meant; 'auto' is a mean mini-batch of each worker, so that both are "
        "those of synchronous training.",
        unit="target words",
        minimum=1,
        choices=("auto",),
        only_if=(lacks("schedule.words_scaling", "none") | has("optimizer.betas_by_words", True),),
    )
