"""From the configuration to the rule of a shard, and to the vectors that it needs.

Shapes: n is the length of a shard, P that of the parameter vector.
"""

from __future__ import annotations

import itertools

from torch import Tensor

from nmtasync.config.schema import AsynchronousConfig, Config
from nmtasync.optim.step import build_step, step_vectors
from nmtasync.server.rules.base import Rule
from nmtasync.server.rules.buffer import Buffer
from nmtasync.server.rules.delay_compensation import DelayCompensation
from nmtasync.server.rules.immediate import Immediate
from nmtasync.server.rules.outer_nesterov import OuterNesterov
from nmtasync.server.rules.staleness_aware import StalenessAware


def rule_vectors(config: Config, num_workers: int) -> list[str]:
    """Name the vectors [P] that the rule keeps, besides the parameters.

    Args:
        config: The experiment.
        num_workers: How many workers push.
    """
    names: list[str] = []
    for part in config.asynchronous.rule.split("+"):
        match part:
            case "immediate":
                pass
            case "buffer":
                names.append("buffer")
            case "staleness-aware":
                pass
            case "delay-compensation":
                names += itertools.chain(*_backup_names(config.asynchronous, num_workers))
            case "outer-nesterov":
                names.append("outer_momentum")
                if _merged(config.asynchronous.outer_delay, num_workers) > 1:
                    names.append("outer_pending")
    if "outer-nesterov" not in config.asynchronous.rule:
        names += step_vectors(config.optimizer)
    return names


def build_rule(config: Config, num_workers: int, vectors: dict[str, Tensor]) -> Rule:
    """Build the rule of one shard.

    From the outside in, whatever order they are named in: compensation corrects each push, the
    buffer merges pushes, staleness scales the learning rate, and the optimizer makes the step.

    Args:
        config: The experiment.
        num_workers: How many workers push.
        vectors: The shard's slices [n] of "parameters" and of all that `rule_vectors` names.
    """
    options, parts = config.asynchronous, config.asynchronous.rule.split("+")
    rule: Rule
    if "outer-nesterov" in parts:
        rule = OuterNesterov(
            vectors["parameters"],
            vectors["outer_momentum"],
            vectors.get("outer_pending"),
            options.outer_learning_rate,
            options.outer_momentum,
            _merged(options.outer_delay, num_workers),
        )
    else:
        step = build_step(config.optimizer, vectors)
        rule = Immediate(step, config.optimizer, config.schedule, options.momentum_lead)
    if "staleness-aware" in parts:
        rule = StalenessAware(rule)
    if "buffer" in parts:
        rule = Buffer(rule, vectors["buffer"], buffer_pushes(options, num_workers))
    if "delay-compensation" in parts:
        names = _backup_names(options, num_workers)
        backups = [[vectors[name] for name in slots] for slots in names]
        strength = options.compensation_strength
        rule = DelayCompensation(rule, vectors["parameters"], backups, strength)
    return rule


def buffer_pushes(options: AsynchronousConfig, num_workers: int) -> int:
    """How many pushes the gradient buffer sums: as many as there are workers, if not said."""
    return _merged(options.buffer_pushes, num_workers)


def _backup_names(options: AsynchronousConfig, num_workers: int) -> list[list[str]]:
    slots = range(options.num_slots)
    return [[f"backup.{worker}.{slot}" for slot in slots] for worker in range(num_workers)]


def _merged(number: int | None, num_workers: int) -> int:
    return num_workers if number is None else number
