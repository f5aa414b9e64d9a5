"""What changes during training. The clock of each schedule is in its name."""

from __future__ import annotations

import math

from nmtasync.config.points import Point, parse_points
from nmtasync.config.schema import AsynchronousConfig, OptimizerConfig, ScheduleConfig


def learning_rate_at(
    update: int, target_words: int, config: ScheduleConfig, progress: float = 0.0
) -> float:
    """The learning rate of one update of a shard.

    Linear warm-up, then the decay; times the scale of the target words.

    Args:
        update: Which update of the shard this is, from 1 on.
        target_words: The target words behind everything that is merged into it.
        config: Peak, warm-up, decay and scaling.
        progress: The share of the training that is over, from 0 to 1; a linear decay follows it.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 3, written relative to its peak;
        the scaling by words: Bogoychev et al. 2018 (arXiv 1808.08859), section 3.
    """
    warmup = max(config.warmup_updates, 1)
    factor = min(1.0, update / warmup)
    if config.decay == "linear":
        factor *= max(0.0, 1.0 - progress)
    elif config.decay == "inverse-sqrt" and update > warmup:
        factor = math.sqrt(warmup / update)
    return config.learning_rate * factor * words_scale(target_words, config)


FRESH_BETAS = 0.9, 0.98
"""What betas that are 'auto' are where no push is late."""


def betas_at(
    update: int,
    target_words: int,
    config: OptimizerConfig,
    schedule: ScheduleConfig,
    staleness: float = 0.0,
) -> tuple[float, float]:
    """Adam's betas for one update of a shard.

    Args:
        update: Which update this is, from 1 on.
        target_words: The target words behind everything that is merged into it.
        config: The betas, or the points between which they change; whether words scale them.
        schedule: The words that they are meant for, if so.
        staleness: How many updates late pushes are on average, for betas that are 'auto'.

    Source: by words: the square root scaling rule of Malladi et al. 2022 (arXiv 2205.10287), whose
        1 - ratio (1 - beta) is the first order of the power, and negative where updates are large.
    """
    if config.beta_points is not None:
        betas = _interpolate(parse_points(config.beta_points), update)
    else:
        memory = 1.0 if config.betas_by_words else math.sqrt(1.0 + staleness)
        given = zip((config.beta1, config.beta2), FRESH_BETAS, strict=True)
        beta1, beta2 = (
            1 - (1 - fresh) / memory if isinstance(beta, str) else beta for beta, fresh in given
        )
        betas = beta1, beta2
    if not config.betas_by_words:
        return betas
    ratio = target_words / _reference_words(schedule)
    return betas[0] ** ratio, betas[1] ** ratio


def lead_at(staleness: int, beta1: float, config: AsynchronousConfig) -> float:
    """How many updates ahead along the first moment a late push looks.

    Args:
        staleness: How many updates late it is.
        beta1: Decay of the first moment.
        config: The lead for each update of staleness.

    Source: 'auto' is a fit to the leads under which late gradients on a parabola are stable up to
        the highest learning rate, of which it gives 99% (`benchmarks/momentum_lead.py`).
    """
    lead = config.momentum_lead
    if isinstance(lead, str):
        lead = 2.0 / (1.0 + 2.5 * staleness * (1.0 - beta1))
    return lead * staleness


def local_betas_at(batch: int, config: AsynchronousConfig) -> tuple[float, float]:
    """The betas of a local optimizer for one of its worker's batches, from 1 on."""
    if config.local_beta_points is None:
        return config.local_beta1, config.local_beta2
    return _interpolate(parse_points(config.local_beta_points), batch)


def _interpolate(points: list[Point], number: int) -> tuple[float, float]:
    """The betas before the first point are the first's, after the last the last's."""
    before = [p for p in points if p.number <= number]
    after = [p for p in points if p.number > number]
    here = before[-1] if before else points[0]
    if here.held or not before or not after:
        return here.beta1, here.beta2
    there = after[0]
    share = (number - here.number) / (there.number - here.number)
    return (
        here.beta1 + share * (there.beta1 - here.beta1),
        here.beta2 + share * (there.beta2 - here.beta2),
    )


def delay_at(updates: int, config: AsynchronousConfig) -> int:
    """How many batches a worker sums up before a push: it rises linearly from 1 to the delay.

    Args:
        updates: Those that the shards have made.
        config: The delay, and over how many updates it rises.
    """
    target, warmup = config.optimizer_delay, config.delay_warmup_updates
    assert isinstance(target, int), "a delay that is 'auto' is chosen elsewhere"
    if updates >= warmup:
        return target
    return 1 + (target - 1) * updates // warmup


def newest_weight_at(
    target_words: int, seen_words: float, config: OptimizerConfig, schedule: ScheduleConfig
) -> float:
    """How much the newest parameters weigh in the moving average after an update.

    The authors' code has max(smoothing, 1 - (t + 1) / (t + 10)) at update t: early in training
    the average is over about the last tenth of it; later it settles. Here t is the words seen so
    far over those of this update. That is the same among equal updates, and a tenth of the words
    where later updates are larger; a tenth of the updates would be ever more words.

    Args:
        target_words: Of the update just made.
        seen_words: Of all updates so far, this one's included.
        config: Whether there is an average, and its weight for the newest in the long run;
            by words if the betas are.
        schedule: The words that it is meant for, if so.

    Source: Bogoychev et al. 2018, the authors' public code.
    """
    assert config.smoothing is not None
    least = config.smoothing
    if config.betas_by_words:
        least = 1 - (1 - least) ** (target_words / _reference_words(schedule))
    return max(least, 9 * target_words / (seen_words + 10 * target_words))


def words_scale(target_words: int, config: ScheduleConfig) -> float:
    """How the learning rate grows with the target words of an update."""
    if config.words_scaling == "none":
        return 1.0
    ratio = target_words / _reference_words(config)
    return ratio if config.words_scaling == "linear" else math.sqrt(ratio)


def _reference_words(config: ScheduleConfig) -> int:
    assert isinstance(config.reference_words, int), "'auto' is counted before training begins"
    return config.reference_words
