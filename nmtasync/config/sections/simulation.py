"""Options of the section `simulation`."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.option import has, option

_SIMULATED = has("asynchronous.driver", "simulated")
_CHOSEN = (_SIMULATED, has("simulation.replay", None))


@dataclass(frozen=True)
class SimulationConfig:
    """Simulated workers: how fast they are, when they fail, what takes how much virtual time."""

    speeds: str = option(
        "1",
        "One number for each worker, for example 1,1,2,4; a worker of speed 2 computes twice as "
        "fast. asynchronous.devices names the one device on which all of them are computed.",
        stages=("train",),
        only_if=_CHOSEN,
    )
    synchronous: bool = option(
        False,
        "Simulate synchronous workers: for each update all of them wait for the slowest, and "
        "their gradients are summed.",
        only_if=_CHOSEN,
    )
    speed_jitter: float = option(
        0.0,
        "Relative standard deviation of the time that a batch takes; log-normal, seeded.",
        minimum=0.0,
        maximum=10.0,
        stages=("train",),
        only_if=_CHOSEN,
    )
    failures: str | None = option(
        None,
        "When workers die and return, in virtual seconds: 1@100-200,0@350 lets worker 1 die at "
        "100 and return at 200, and worker 0 die at 350 for good.",
        stages=("train",),
        only_if=(*_CHOSEN, has("simulation.synchronous", False)),
    )
    seconds_per_batch: float = option(
        1.0,
        "Time of a batch at speed 1, besides that of its words.",
        unit="seconds",
        minimum=0.0,
        only_if=_CHOSEN,
    )
    seconds_per_target_word: float = option(
        0.0,
        "Time of each target word of a batch at speed 1.",
        unit="seconds",
        minimum=0.0,
        only_if=_CHOSEN,
    )
    exchange_latency_seconds: float = option(
        0.0,
        "Time until a message between worker and server begins to arrive, in each direction.",
        unit="seconds",
        minimum=0.0,
        only_if=_CHOSEN,
    )
    exchange_bytes_per_second: float | None = option(
        None,
        "Bandwidth between a worker and the server, in each direction; 'none' is infinite.",
        unit="bytes per second",
        minimum=1.0,
        only_if=_CHOSEN,
    )
    replay: str | None = option(
        None,
        "Repeat the run whose RUN/logs/exchanges.jsonl this is: the same batches by the same "
        "workers, pushed in the same order.",
        stages=("train",),
        only_if=(_SIMULATED,),
    )
