"""Options of the section `asynchronous`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import has, lacks, option, train_flag
from nmtasync.config.rules import RULES

MAX_THREADS = 1024
"""Of a process: more than machines have cores."""

_APART = (lacks("asynchronous.driver", "synchronous"), has("simulation.synchronous", False))
_SHARDS_AT_HAND = (*_APART, lacks("asynchronous.driver", "ray"))
_LOCAL_STEPS = lacks("asynchronous.local_optimizer_batches", 0)
_LATE = lacks("asynchronous.optimizer_delay", 1)
_HOSTS = (
    lacks("simulation.hosts", None)
    | has("asynchronous.driver", "ray")
    | lacks("simulation.replay", None)
)
_AUTO_DELAY = has("asynchronous.optimizer_delay", "auto")

OPTIMIZER = tuple(
    lacks("asynchronous.rule", name)
    for name, rule in RULES.items()
    if rule.innermost and name != "immediate"
)
"""The server has an optimizer: no rule makes the updates in its place."""

ADAM = (lacks("optimizer.name", "sgd"), *OPTIMIZER)
"""The server has an Adam."""

LOCAL_ADAM = _LOCAL_STEPS | has("asynchronous.drop_local_gradient", True)
"""Workers have an Adam of their own."""

_asynchronous = partial(option, only_if=_APART)
_on_cluster = partial(option, only_if=(has("asynchronous.driver", "ray"),))
_of_outer = partial(option, only_if=(has("asynchronous.rule", "outer-nesterov"),))
_of_local_steps = partial(option, only_if=(*_APART, _LOCAL_STEPS))
_of_local_optimizer = partial(option, only_if=(*_APART, LOCAL_ADAM))
_local_beta = partial(
    option,
    minimum=0.0,
    only_if=(*_APART, LOCAL_ADAM, has("asynchronous.local_beta_points", None)),
)
_of_dropping = partial(option, only_if=(*_APART, lacks("asynchronous.drop_rate", None)))


@dataclass(frozen=True)
class AsynchronousConfig:
    """The workers, and how they push and fetch."""

    driver: str = train_flag(
        "local",
        "How the workers come together: 'local' is asynchronous, in processes of this machine; "
        "'simulated' is asynchronous in one process and virtual time, see [simulation]; "
        "'synchronous' sums the gradients of all workers for each update; 'ray' is asynchronous, "
        "on the hosts of a Ray cluster.",
        choices=("local", "simulated", "synchronous", "ray"),
    )
    devices: str = train_flag(
        "auto",
        "One worker for each device named, for example cpu,cpu or cuda:0,cuda:1; a device may "
        "be named more than once. 'auto' is every GPU, else one CPU worker for each core, at the "
        "most four, which share the cores. With driver = ray it says of which kind they are, and "
        "'auto' is what the cluster has.",
    )
    num_workers: int | None = _on_cluster(
        None,
        "How many workers there are; 'none' is as many as there is room for when training starts. "
        "Of more than that, the rest start when nodes join.",
        minimum=1,
        maximum=1024,
        stages=("train",),
    )
    ray_address: str | None = _on_cluster(
        None,
        "The Ray cluster: HOST:PORT of its head, or 'auto' for the one that this machine is a node "
        "of; 'none' starts one on this machine alone, which nothing else can reach.",
        stages=("train",),
    )
    optimizer_delay: int | str = train_flag(
        1,
        "Mini-batches whose gradients a worker sums for each push: a number, or 'auto', which "
        "follows the noise of the gradients and the cost of an exchange as both are measured.",
        unit="batches",
        minimum=1,
        maximum=100000,
        choices=("auto",),
    )
    worker_timeout: float | str = option(
        "auto",
        "End and replace a worker, or the process that validates, that says nothing for so long; "
        "'auto' is 20 times the longest task so far, but at least a minute, and 15 minutes before "
        "the first has ended.",
        unit="seconds",
        minimum=0.0,
        choices=("auto",),
        stages=("train",),
    )
    max_delay: int = option(
        16,
        "The highest delay that optimizer_delay = auto takes.",
        unit="batches",
        minimum=1,
        maximum=100000,
        only_if=(_AUTO_DELAY,),
    )
    overlap: bool = _asynchronous(
        False,
        "Exchange while computing: each worker has two windows under way. N equal workers are then "
        "2N - 1 updates late instead of N - 1, also a single one, which has a process of its own.",
        stages=("train",),
    )
    delay_warmup_updates: int = option(
        0,
        "Raise the delay linearly from 1 for this long.",
        unit="updates",
        minimum=0,
        only_if=(_LATE, lacks("asynchronous.optimizer_delay", "auto")),
    )
    rule: str = _asynchronous(
        "immediate",
        "What the server does with pushes: "
        + "; ".join(f"{name} {rule.help}" for name, rule in RULES.items())
        + "; or several, joined by +.",
        stages=("train",),
    )
    momentum_lead: float | str = option(
        "auto",
        "Adam: for each update that a push is late, look this many updates ahead along the first "
        "moment, which gives back most of what lateness costs; 0 is off, 'auto' is what lets late "
        "gradients have the highest learning rate, by theory.",
        unit="updates for each of staleness",
        minimum=0.0,
        choices=("auto",),
        only_if=(*_APART, *ADAM),
    )
    buffer_pushes: int | None = option(
        None,
        "Pushes that a gradient buffer sums for one update; 'none' is one for each worker.",
        unit="pushes",
        minimum=1,
        only_if=(has("asynchronous.rule", "buffer"),),
    )
    compensation_strength: float = option(
        0.04,
        "Delay compensation: its factor lambda.",
        minimum=0.0,
        only_if=(has("asynchronous.rule", "delay-compensation"),),
    )
    outer_learning_rate: float = _of_outer(
        0.7,
        "Outer Nesterov: its learning rate, which follows no schedule.",
        minimum=0.0,
    )
    outer_momentum: float = _of_outer(
        0.9,
        "Outer Nesterov: decay of the momentum.",
        minimum=0.0,
        maximum=0.99999,
    )
    outer_delay: int | None = _of_outer(
        None,
        "Outer Nesterov: pushes between two refreshes of the momentum; 'none' is one for each "
        "worker, 1 is DiLoCo's own.",
        unit="pushes",
        minimum=1,
    )
    local_optimizer_batches: int | str = option(
        0,
        "For how many of its first mini-batches each worker also applies an Adam of its own to "
        "its replica between pushes: a number, or 'always'. With optimizer_delay = 1, a fetch "
        "after each batch replaces the replica.",
        unit="batches of a worker",
        minimum=0,
        choices=("always",),
        stages=("train",),
        only_if=(*_APART, _LATE | has("asynchronous.local_push", "delta")),
    )
    local_beta1: float = _local_beta(
        0.93,
        "Local optimizers: decay of the first moment.",
        maximum=0.99999,
    )
    local_beta2: float = _local_beta(
        0.993,
        "Local optimizers: decay of the second moment.",
        maximum=0.999999,
    )
    local_beta_points: str | None = _of_local_optimizer(
        None,
        "Local optimizers: let the betas change, as optimizer.beta_points does, by the batches "
        "of the worker.",
        unit="batches of a worker",
    )
    local_learning_rate: float | None = _of_local_optimizer(
        None,
        "Local optimizers: a learning rate of their own; 'none' follows the schedule.",
        minimum=0.0,
    )
    local_push: str = _of_local_steps(
        "gradient",
        "What is pushed after local steps: the sum of the gradients, or the way they have gone "
        "(times the target words, so that rules treat both alike).",
        choices=("gradient", "delta"),
    )
    local_write_back: bool = option(
        False,
        "Local optimizers: write the slice of each worker's own shard back to the server after "
        "each local step, as the authors' code does; this erases what others have pushed there.",
        only_if=(*_SHARDS_AT_HAND, _LOCAL_STEPS),
    )
    own_shard: str = option(
        "window",
        "When the shards of a worker's own number take its gradients: with the push of a window, "
        "as all others do, or after each 'batch', which costs no communication where they lie on "
        "the worker's device. With more shards than workers, worker i owns shards i, i + N, ...",
        choices=("window", "batch"),
        only_if=_SHARDS_AT_HAND,
    )
    drop_rate: float | None = _asynchronous(
        None,
        "Gradient dropping: keep this share of each gradient, its smallest elements, on the "
        "worker until they have grown, and push the rest; 'none' is off.",
        minimum=0.0,
        maximum=0.99999,
    )
    drop_warmup_pushes: int = _of_dropping(
        0,
        "Gradient dropping: raise the rate linearly from 0 for this long.",
        unit="pushes of a worker",
        minimum=0,
    )
    drop_local_gradient: bool = _of_dropping(
        False,
        "Gradient dropping: the worker applies what it keeps to its own replica, by an Adam of "
        "its own, after each fetch.",
    )
    hosts: str = option(
        "asynchronous",
        "How the workers of a host come together: 'asynchronous' lets each exchange by itself; "
        "'synchronous' makes one worker of a host, whose devices sum their gradients there. "
        "optimizer_delay and the batches of local steps are then those of each device. With driver "
        "= ray each node is a host, num_workers says how many, and devices names those of each.",
        choices=("asynchronous", "synchronous"),
        stages=("train",),
        only_if=(*_APART, _HOSTS),
    )
    exchange_precision: str = _asynchronous(
        "fp32",
        "The type of values on their way between workers and server, for hosts and for the costs "
        "of simulations. Of a gradient, what 'bf16' and 'fp16' leave out is kept for the next "
        "push; parameters are rounded for each fetch, and never on the server.",
        choices=("fp32", "bf16", "fp16"),
    )
    num_shards: int | None = _asynchronous(
        None,
        "Shards of the parameter vector; 'none' means one for each worker.",
        minimum=1,
        maximum=10000,
    )
    threads: int | None = train_flag(
        None,
        "CPU threads of each worker; 'none' shares the cores out evenly.",
        minimum=1,
        maximum=MAX_THREADS,
    )
    max_restarts: int = option(
        3,
        "How often a worker that died is replaced, one after another without a push; of simulated "
        "workers, simulation.failures says who returns.",
        minimum=0,
        only_if=(lacks("asynchronous.driver", "simulated"),),
    )

    @property
    def keeps_residual(self) -> bool:
        """Whether pushes leave something out, which workers keep for the next ones."""
        return self.drop_rate is not None or self.exchange_precision != "fp32"

    @property
    def num_slots(self) -> int:
        """How many windows a worker has under way, each in a slot of its own."""
        return 2 if self.overlap else 1
