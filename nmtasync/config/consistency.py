"""Options that have no effect beside others, or contradict them: refused, with both named.

What an option needs to have an effect is said beside it, in `config/sections/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nmtasync.config.option import spelled
from nmtasync.config.points import parse_points
from nmtasync.config.rules import RULES
from nmtasync.config.schema import OPTIONS, Config, get
from nmtasync.errors import UserError


def refuse_inconsistent(config: Config, settings: Mapping[str, Any]) -> None:
    """Refuse options that have no effect beside the others, or contradict them.

    Args:
        config: The whole configuration.
        settings: What somebody has set, by full name.

    Raises:
        UserError: There is one.
    """
    changed = {name for name, value in settings.items() if value != OPTIONS[name].default}
    _refuse_hosts_here(config)
    _refuse_without_effect(config, changed)
    _refuse_rules(config)
    _refuse_schedule(config)
    _refuse_deltas(config)
    _refuse_write_back(config)
    _refuse_own_shard(config)
    _refuse_rounding(config)
    _refuse_synchronous_hosts(config)
    _refuse_auto_delay(config)
    _refuse_fit(config)
    _refuse_sampling(config)
    _refuse_rest(config)


def _refuse_without_effect(config: Config, changed: set[str]) -> None:
    for name in (name for name in OPTIONS if name in changed):
        for condition in OPTIONS[name].about.only_if:
            if any(_has(config, *test) is wanted for *test, wanted in condition.tests):
                continue
            now = (f"{other} is {_quoted(get(config, other))}" for other, _, _ in condition.tests)
            ways = (
                f"set {other} to {_quoted(value)}" if wanted else f"change {other}"
                for other, value, wanted in condition.tests
            )
            raise UserError(
                f"has no effect while {' and '.join(now)}",
                where=name,
                remedy=f"remove it or {' or '.join(ways)}",
            )


def _has(config: Config, name: str, value: Any) -> bool:
    there = get(config, name)
    return value in there.split("+") if isinstance(there, str) else bool(there == value)


def _quoted(value: Any) -> str:
    return f"'{spelled(value)}'" if value is None or isinstance(value, str) else spelled(value)


def _refuse_rules(config: Config) -> None:
    name, parts = "asynchronous.rule", config.asynchronous.rule.split("+")
    for part in parts:
        if part not in RULES:
            known = ", ".join(RULES)
            raise UserError(f"{part!r} is no rule; there are {known}", where=name)
        if parts.count(part) > 1:
            raise UserError(f"names {part} twice", where=name)
    if "immediate" in parts and len(parts) > 1:
        raise UserError("immediate is what the others do in the end", where=name, remedy="drop it")
    for part in parts:
        _refuse_beside_rule(config, part, parts)


def _refuse_beside_rule(config: Config, rule: str, parts: list[str]) -> None:
    name, about, pushed = "asynchronous.rule", RULES[rule], config.asynchronous.local_push
    if about.local_push is not None and pushed != about.local_push[0]:
        needed, why = about.local_push
        raise UserError(
            f"{rule} {why}, but asynchronous.local_push is {pushed!r}",
            where=name,
            remedy=f"drop it or set local_push to {needed!r}",
        )
    if about.excludes is not None and about.excludes[0] in parts:
        other, why = about.excludes
        raise UserError(f"{rule} {why}", where=name, remedy=f"drop {other}")


def _refuse_schedule(config: Config) -> None:
    schedule, limits = config.schedule, config.training
    for name in ("optimizer.beta_points", "asynchronous.local_beta_points"):
        if get(config, name) is not None:
            parse_points(get(config, name), where=name)
    if schedule.decay == "linear" and not (
        limits.max_minutes or limits.max_updates or limits.max_epochs
    ):
        raise UserError(
            "is 'linear', down to 0 at the end of training, but no limit of training is set",
            where="schedule.decay",
            remedy="set training.max_minutes, max_epochs or max_updates",
        )
    if schedule.decay == "inverse-sqrt" and schedule.warmup_updates == 0:
        raise UserError(
            "is 'inverse-sqrt', which starts at the end of the warm-up, but "
            "schedule.warmup_updates is 0: after 100 updates a tenth of the rate would be left",
            where="schedule.decay",
            remedy="set it to 'none' or 'linear', or warm up",
        )


def _refuse_deltas(config: Config) -> None:
    options, batches = config.asynchronous, "asynchronous.local_optimizer_batches"
    if options.local_push != "delta":
        return
    if options.local_optimizer_batches != "always":
        raise UserError(
            "is 'delta', but local optimizers end after "
            f"{batches} = {options.local_optimizer_batches}",
            where="asynchronous.local_push",
            remedy=f"set {batches} to 'always'",
        )
    if config.training.precision == "fp16":
        raise UserError(
            "'fp16' scales the loss by what becomes of a window's gradient, but "
            "asynchronous.local_push is 'delta'",
            where="training.precision",
            remedy="set it to 'bf16'",
        )


def _refuse_write_back(config: Config) -> None:
    options, name = config.asynchronous, "asynchronous.local_write_back"
    if not options.local_write_back:
        return
    if options.num_shards is not None:
        raise UserError(
            f"gives each worker a shard of its own, but asynchronous.num_shards is "
            f"{options.num_shards}",
            where=name,
            remedy="set num_shards to 'none', which is one for each worker",
        )
    if options.overlap:
        raise UserError(
            "lets a worker wait until each local step is written back, but asynchronous.overlap "
            "is on",
            where=name,
            remedy="drop one of them",
        )
    if options.local_push == "delta":
        raise UserError(
            "brings the local steps to the shards already, but asynchronous.local_push is 'delta'",
            where=name,
            remedy="drop one of them",
        )


def _refuse_own_shard(config: Config) -> None:
    options, name = config.asynchronous, "asynchronous.own_shard"
    if options.own_shard != "batch":
        return
    others = {
        "local_write_back": (options.local_write_back, "writes over these shards, too"),
        "local_push": (options.local_push == "delta", "pushes the way of a whole window"),
        "drop_rate": (options.drop_rate is not None, "keeps a part of whole gradients"),
        "overlap": (options.overlap, "computes two windows on different parameters"),
    }
    _refuse_beside(name, options.own_shard, others)
    for rule in options.rule.split("+"):
        if not RULES[rule].takes_parts:
            raise UserError(
                f"is 'batch', but asynchronous.rule has {rule}, which takes whole pushes only",
                where=name,
                remedy="drop one of them",
            )


def _refuse_rounding(config: Config) -> None:
    """Shards of a worker's own would be rounded: by what it writes back, or without travelling."""
    options, name = config.asynchronous, "asynchronous.exchange_precision"
    if options.exchange_precision == "fp32":
        return
    others = {
        "local_write_back": (options.local_write_back, "writes what was rounded over shards"),
        "own_shard": (options.own_shard == "batch", "is 'batch', for shards that do not travel"),
    }
    _refuse_beside(name, options.exchange_precision, others)


def _refuse_hosts_here(config: Config) -> None:
    options = config.asynchronous
    if options.hosts == "synchronous" and options.driver in ("local", "synchronous"):
        raise UserError(
            f"is 'synchronous', but asynchronous.driver is {options.driver!r}: one machine is one "
            "host",
            where="asynchronous.hosts",
            remedy="set it to 'asynchronous', and write --driver synchronous for the devices of "
            "this machine, or --driver ray for the hosts of a cluster",
        )


def _refuse_synchronous_hosts(config: Config) -> None:
    options = config.asynchronous
    if options.hosts == "asynchronous":
        return
    others = {
        "own_shard": (options.own_shard == "batch", "is 'batch', for a worker of one device"),
        "local_write_back": (options.local_write_back, "is for workers of one device"),
        "optimizer_delay": (options.optimizer_delay == "auto", "is 'auto', which measures one"),
    }
    _refuse_beside("asynchronous.hosts", options.hosts, others)


def _refuse_beside(name: str, value: str, others: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse an option beside others of its section, of which each is on or not, and says why."""
    for other, (on, why) in others.items():
        if on:
            raise UserError(
                f"is {value!r}, but asynchronous.{other} {why}",
                where=name,
                remedy="drop one of them",
            )


def _refuse_auto_delay(config: Config) -> None:
    name = "asynchronous.optimizer_delay"
    if config.asynchronous.optimizer_delay != "auto":
        return
    if config.asynchronous.driver == "synchronous" or config.simulation.synchronous:
        raise UserError(
            "is 'auto', which weighs what each worker's own exchanges cost, but synchronous "
            "workers have none of their own",
            where=name,
            remedy="set a number",
        )


def _refuse_fit(config: Config) -> None:
    driver = config.asynchronous.driver
    if config.data.batch_tokens == "fit" and driver in ("simulated", "ray"):
        raise UserError(
            "is 'fit', which is tried with the workers that train, but asynchronous.driver is "
            f"'{driver}'",
            where="data.batch_tokens",
            remedy="set a number",
        )


def _refuse_sampling(config: Config) -> None:
    if config.training.guided_alignment_weight is None:
        return
    for name in ("data.source_subword_alpha", "data.target_subword_alpha"):
        if get(config, name) is not None:
            raise UserError(
                "has other pieces in each epoch, but training.guided_alignment_weight needs those "
                "that are aligned",
                where=name,
                remedy="remove one of them",
            )


def _refuse_rest(config: Config) -> None:
    options, layer = config.asynchronous, config.training.guided_alignment_layer
    if config.training.on_divergence == "rollback" and config.simulation.replay is not None:
        raise UserError(
            "is 'rollback', but a replay repeats what was recorded, with the rollbacks of that",
            where="training.on_divergence",
            remedy="set it to 'stop'",
        )
    if options.local_optimizer_batches != 0 and options.drop_local_gradient:
        raise UserError(
            "uses the worker's own Adam, and so do asynchronous.local_optimizer_batches",
            where="asynchronous.drop_local_gradient",
            remedy="drop one of them",
        )
    if layer is not None and layer > config.model.decoder_layers:
        raise UserError(
            f"is {layer}, but model.decoder_layers is {config.model.decoder_layers}",
            where="training.guided_alignment_layer",
            remedy="lower it",
        )
    if config.model.tied_embeddings == "all" and not config.data.joint_vocabulary:
        raise UserError(
            "model.tied_embeddings is 'all', which needs data.joint_vocabulary",
            where="model.tied_embeddings",
            remedy="set it to 'target' or 'none'",
        )
    if config.training.validate_metric == "bleu" and not config.training.validate_bleu:
        raise UserError(
            "is 'bleu', but training.validate_bleu is off",
            where="training.validate_metric",
            remedy="set it to 'cross_entropy'",
        )
