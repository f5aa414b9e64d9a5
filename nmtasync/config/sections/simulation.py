"""Options of the section `simulation`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import has, lacks, option

_SIMULATED = has("asynchronous.driver", "simulated")
_CHOSEN = (_SIMULATED, has("simulation.replay", None))

_of_simulation = partial(option, only_if=_CHOSEN)
_seconds = partial(_of_simulation, unit="seconds", minimum=0.0)
_HOSTS = (*_CHOSEN, lacks("simulation.hosts", None))
_ASYNCHRONOUS = has("simulation.synchronous", False)


@dataclass(frozen=True)
class SimulationConfig:
    """Simulated workers: how fast they are, when they fail, what takes how much virtual time."""

    speeds: str = _of_simulation(
        "1",
        "One number for each worker, for example 1,1,2,4; a worker of speed 2 computes twice as "
        "fast. asynchronous.devices names the one device on which all of them are computed.",
        stages=("train",),
    )
    synchronous: bool = _of_simulation(
        False,
        "Simulate synchronous workers: for each update all of them wait for the slowest, and "
        "their gradients are summed.",
    )
    speed_jitter: float = _of_simulation(
        0.0,
        "Relative standard deviation of the time that a batch takes; log-normal, seeded.",
        minimum=0.0,
        maximum=10.0,
        stages=("train",),
    )
    failures: str | None = option(
        None,
        "When workers die and return, in virtual seconds: 1@100-200,0@350 lets worker 1 die at "
        "100 and return at 200, and worker 0 die at 350 for good; h2@100-200 is all workers of "
        "host 2.",
        stages=("train",),
        only_if=(*_CHOSEN, _ASYNCHRONOUS),
    )
    seconds_per_batch: float = _seconds(
        1.0,
        "Time of a batch at speed 1, besides that of its words.",
    )
    seconds_per_target_word: float = _seconds(
        0.0,
        "Time of each target word of a batch at speed 1.",
    )
    exchange_latency_seconds: float = _seconds(
        0.0,
        "Time until a message between worker and server begins to arrive, in each direction; "
        "with hosts, inside one.",
    )
    exchange_bytes_per_second: float | None = _of_simulation(
        None,
        "Bandwidth between a worker and the server, in each direction; 'none' is infinite. With "
        "hosts, inside one.",
        unit="bytes per second",
        minimum=1.0,
    )
    num_parameters: int | None = _of_simulation(
        None,
        "Let exchanges cost what those of a network with so many parameters would; 'none' is the "
        "network that is trained.",
        minimum=1,
        maximum=10**12,
    )
    server_seconds: float = option(
        0.0,
        "Time that the server takes for a push; it takes one after another.",
        unit="seconds",
        minimum=0.0,
        only_if=(*_CHOSEN, _ASYNCHRONOUS),
    )
    hosts: str | None = _of_simulation(
        None,
        "How many workers each host has, for example 8,8: workers 0 to 7 lie on host 0, beside "
        "the server; 'none' is one host.",
    )
    network_latency_seconds: float = option(
        0.0,
        "Between hosts: time until a message begins to arrive, in each direction.",
        unit="seconds",
        minimum=0.0,
        only_if=_HOSTS,
    )
    network_bytes_per_second: float | None = option(
        None,
        "Between hosts: bandwidth of each host's network interface, in each direction. All that "
        "workers of other hosts exchange passes that of the server's host, one transfer after "
        "another; 'none' is infinite.",
        unit="bytes per second",
        minimum=1.0,
        only_if=_HOSTS,
    )
    network_jitter: float = option(
        0.0,
        "Between hosts: relative standard deviation of the time that a transfer takes; log-normal, "
        "seeded.",
        minimum=0.0,
        maximum=10.0,
        only_if=(*_HOSTS, _ASYNCHRONOUS),
    )
    host_failure_seconds: float | None = option(
        None,
        "Mean time until each host but the server's fails, with all its workers; exponential, "
        "seeded. 'none' is never.",
        unit="seconds",
        above=0.0,
        only_if=(*_HOSTS, _ASYNCHRONOUS, has("simulation.failures", None)),
    )
    host_outage_seconds: float = option(
        60.0,
        "For how long a host that has failed is away.",
        unit="seconds",
        above=0.0,
        only_if=(lacks("simulation.host_failure_seconds", None),),
    )
    replay: str | None = option(
        None,
        "Repeat the run whose RUN/logs/exchanges.jsonl this is: the same batches by the same "
        "workers, pushed in the same order.",
        stages=("train",),
        only_if=(_SIMULATED,),
    )
