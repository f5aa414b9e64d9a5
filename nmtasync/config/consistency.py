"""Options that have no effect beside others, or no meaning: refused, with both named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nmtasync.config.points import parse_points
from nmtasync.config.schema import OPTIONS, Config, get
from nmtasync.errors import UserError

RULES = ("immediate", "buffer", "staleness-aware", "delay-compensation", "outer-nesterov")
_OF_ADAM = (
    "asynchronous.momentum_lead",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.beta_points",
    "optimizer.betas_by_words",
)


def refuse_inconsistent(config: Config, settings: Mapping[str, Any]) -> None:
    """Look for options that contradict each other.

    Args:
        config: The whole configuration.
        settings: What somebody has set, by full name.

    Raises:
        UserError: There is one.
    """
    changed = {name for name, value in settings.items() if value != OPTIONS[name].default}
    _refuse_unmet_conditions(config, changed)
    _refuse_in_synchronous_training(config, changed)
    _refuse_rules(config, changed)
    _refuse_optimizer(config, changed)
    _refuse_schedule(config, changed)
    _refuse_local(config, changed)
    _refuse_write_back(config)
    _refuse_dropping(config, changed)
    _refuse_recurrent(config, changed)
    _refuse_guided_alignment(config)
    _refuse_rest(config)


def _inert(name: str, because: str, remedy: str) -> UserError:
    return UserError(f"has no effect {because}", where=name, remedy=remedy)


def _refuse_unmet_conditions(config: Config, changed: set[str]) -> None:
    for name, field in OPTIONS.items():
        condition = field.about.only_if
        if name not in changed or condition is None:
            continue
        there = str(get(config, condition[0]))
        if condition[1] not in there.split("+"):
            raise _inert(
                name,
                f"while {condition[0]} is {there!r}",
                f"remove it or set {condition[0]} to {condition[1]!r}",
            )


def _refuse_rules(config: Config, changed: set[str]) -> None:
    name, parts = "asynchronous.rule", config.asynchronous.rule.split("+")
    for part in parts:
        if part not in RULES:
            known = ", ".join(RULES)
            raise UserError(f"{part!r} is no rule; there are {known}", where=name)
        if parts.count(part) > 1:
            raise UserError(f"names {part} twice", where=name)
    if "immediate" in parts and len(parts) > 1:
        raise UserError("immediate is what the others do in the end", where=name, remedy="drop it")
    if "outer-nesterov" not in parts:
        return
    if config.asynchronous.local_push != "delta":
        raise UserError(
            "outer-nesterov takes deltas, but asynchronous.local_push is 'gradient'",
            where=name,
            remedy="set local_push to 'delta' and local_optimizer_batches to 'always'",
        )
    if "buffer" in parts:
        raise UserError(
            "outer-nesterov merges pushes itself, every asynchronous.outer_delay of them",
            where=name,
            remedy="drop buffer",
        )
    for inert in (*_OF_ADAM, "optimizer.name", "optimizer.weight_decay"):
        if inert in changed:
            raise _inert(inert, "with the rule outer-nesterov", "remove it")


def _refuse_optimizer(config: Config, changed: set[str]) -> None:
    optimizer, options = config.optimizer, config.asynchronous
    local_adam = options.local_optimizer_batches != 0 or options.drop_local_gradient
    if optimizer.name == "sgd":
        for inert in _OF_ADAM if local_adam else (*_OF_ADAM, "optimizer.epsilon"):
            if inert in changed:
                raise _inert(inert, "while optimizer.name is 'sgd'", "remove it")
    if optimizer.epsilon == 0.0:
        raise UserError(
            "is 0, and parameters that have had no gradient yet would be divided by it",
            where="optimizer.epsilon",
            remedy="leave it out, or take 1e-9",
        )
    if optimizer.clip_norm == 0.0:
        raise UserError(
            "is 0, which would clip every gradient to nothing",
            where="optimizer.clip_norm",
            remedy="set it to 'none' to switch clipping off",
        )
    if optimizer.beta_points is not None and {"optimizer.beta1", "optimizer.beta2"} & changed:
        raise _inert("optimizer.beta1 or beta2", "beside optimizer.beta_points", "drop one of them")
    local = {"asynchronous.local_beta1", "asynchronous.local_beta2"}
    if options.local_beta_points is not None and local & changed:
        raise _inert(
            "asynchronous.local_beta1 or local_beta2",
            "beside asynchronous.local_beta_points",
            "drop one of them",
        )
    for where, text in (
        ("optimizer.beta_points", optimizer.beta_points),
        ("asynchronous.local_beta_points", options.local_beta_points),
    ):
        if text is not None:
            try:
                parse_points(text)
            except ValueError as error:
                raise UserError(
                    str(error), where=where, remedy="write 1:0.9:0.999,4000:0.92:0.998, for example"
                ) from None


def _refuse_schedule(config: Config, changed: set[str]) -> None:
    schedule, limits = config.schedule, config.training
    if schedule.decay == "linear" and not (
        limits.max_minutes or limits.max_updates or limits.max_epochs
    ):
        raise UserError(
            "is 'linear', to 0 at the end of training, but nothing tells where that is",
            where="schedule.decay",
            remedy="set training.max_minutes, max_epochs or max_updates",
        )
    if schedule.decay == "inverse-sqrt" and schedule.warmup_updates == 0:
        raise UserError(
            "is 'inverse-sqrt', which sets out from the end of the warm-up, but "
            "schedule.warmup_updates is 0: after 100 updates a tenth of the rate would be left",
            where="schedule.decay",
            remedy="set it to 'none' or 'linear', or warm up",
        )
    by_words = schedule.words_scaling != "none" or config.optimizer.betas_by_words
    if not by_words and "schedule.reference_words" in changed:
        raise _inert(
            "schedule.reference_words",
            "while schedule.words_scaling is 'none' and optimizer.betas_by_words is off",
            "remove it or set one of them",
        )


def _refuse_local(config: Config, changed: set[str]) -> None:
    options = config.asynchronous
    batches = "asynchronous.local_optimizer_batches"
    if options.local_optimizer_batches == 0:
        keys = ["push", "write_back"]
        if not options.drop_local_gradient:
            keys += ["beta1", "beta2", "beta_points", "learning_rate"]
        for name in (f"asynchronous.local_{key}" for key in keys):
            if name in changed:
                raise _inert(name, f"while {batches} is 0", f"remove it or set {batches}")
        return
    if options.local_push == "delta":
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
        if "delay-compensation" in options.rule.split("+"):
            raise UserError(
                "delay-compensation corrects gradients, but asynchronous.local_push is 'delta'",
                where="asynchronous.rule",
                remedy="drop one of them",
            )
    elif options.optimizer_delay == 1:
        raise _inert(
            batches,
            "while asynchronous.optimizer_delay is 1, because every push is followed by a fetch "
            "that replaces the replica",
            "raise optimizer_delay or set local_optimizer_batches to 0",
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
    if options.driver == "simulated":
        raise UserError(
            "can't be simulated or replayed: a window is computed at once when its push arrives, "
            "and its local steps would all be written back at that moment",
            where=name,
            remedy="set asynchronous.driver to 'local'",
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


def _refuse_dropping(config: Config, changed: set[str]) -> None:
    options = config.asynchronous
    if options.drop_rate is None:
        for name in ("asynchronous.drop_warmup_pushes", "asynchronous.drop_local_gradient"):
            if name in changed:
                remedy = "remove it or set drop_rate"
                raise _inert(name, "while asynchronous.drop_rate is 'none'", remedy)
    elif options.local_optimizer_batches != 0 and options.drop_local_gradient:
        raise UserError(
            "uses the worker's own Adam, and so do asynchronous.local_optimizer_batches",
            where="asynchronous.drop_local_gradient",
            remedy="drop one of them",
        )


def _refuse_in_synchronous_training(config: Config, changed: set[str]) -> None:
    """Refuse options of what synchronous workers, who share every update, do not have."""
    if config.asynchronous.driver == "synchronous":
        because = "while asynchronous.driver is 'synchronous'"
        remedy = "remove it or set asynchronous.driver to 'local'"
    elif config.simulation.synchronous:
        because = "while simulation.synchronous is true"
        remedy = "remove one of the two"
    else:
        return
    shared = {"driver", "devices", "optimizer_delay", "delay_warmup_updates", "threads"}
    for field in OPTIONS.values():
        about_workers = field.section == "asynchronous" and field.key not in shared
        if about_workers and field.key != "max_restarts" and field.name in changed:
            raise _inert(field.name, because, remedy)
    if config.simulation.synchronous and config.simulation.failures is not None:
        raise _inert("simulation.failures", because, remedy)


def _refuse_recurrent(config: Config, changed: set[str]) -> None:
    model = config.model
    for key, other, alone in (
        ("decoder_high_cell_depth", "decoder_layers", model.decoder_layers == 1),
        (
            "residual_connections",
            "encoder_layers and model.decoder_layers",
            model.encoder_layers == model.decoder_layers == 1,
        ),
    ):
        if alone and f"model.{key}" in changed:
            raise _inert(f"model.{key}", f"with model.{other} = 1", "remove it or add layers")
    if model.dropout == 0.0 and "model.variational_dropout" in changed:
        raise _inert(
            "model.variational_dropout", "while model.dropout is 0", "remove it or set dropout"
        )


def _refuse_guided_alignment(config: Config) -> None:
    weight, layer = "training.guided_alignment_weight", "training.guided_alignment_layer"
    training = config.training
    if training.guided_alignment_weight == 0.0:
        raise _inert(weight, "while it is 0", "set it to 'none' or more than 0")
    if training.guided_alignment_layer is None:
        return
    if not training.guides_alignment:
        raise _inert(layer, f"while {weight} is 'none'", f"remove it or set {weight}")
    if training.guided_alignment_layer > config.model.decoder_layers:
        raise UserError(
            f"is {training.guided_alignment_layer}, but model.decoder_layers is "
            f"{config.model.decoder_layers}",
            where=layer,
            remedy="lower it",
        )


def _refuse_rest(config: Config) -> None:
    if config.asynchronous.delay_warmup_updates and config.asynchronous.optimizer_delay == 1:
        raise _inert(
            "asynchronous.delay_warmup_updates",
            "while asynchronous.optimizer_delay is 1",
            "remove it or raise optimizer_delay",
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
