"""What changes during training. The clock of each schedule is in its name."""

from __future__ import annotations

import math

from nmtasync.config.schema import ScheduleConfig


def learning_rate_at(updates: int, target_words: int, config: ScheduleConfig) -> float:
    """The learning rate of one update of a shard.

    Linear warm-up, then inverse square root; times the scale of the target words.

    Args:
        updates: Which update of the shard this is, from 1 on.
        target_words: The target words behind everything that is merged into it.
        config: Peak, warm-up, decay and scaling.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 3, written relative to its peak;
        the scaling by words: Bogoychev et al. 2018 (arXiv 1808.08859), section 3.
    """
    warmup = max(config.warmup_updates, 1)
    if updates < warmup:
        factor = updates / warmup
    elif config.decay == "inverse-sqrt":
        factor = math.sqrt(warmup / updates)
    else:
        factor = 1.0
    return config.learning_rate * factor * words_scale(target_words, config)


def words_scale(target_words: int, config: ScheduleConfig) -> float:
    """How the learning rate grows with the target words of an update."""
    ratio = target_words / config.reference_words
    match config.words_scaling:
        case "linear":
            return ratio
        case "sqrt":
            return math.sqrt(ratio)
        case _:
            return 1.0
