"""Options of the section `simulation`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import has, option

_SIMULATED = has("asynchronous.driver", "simulated")
_CHOSEN = (_SIMULATED, has("simulation.replay", None))

_of_simulation = partial(option, only_if=_CHOSEN)
_seconds = partial(_of_simulation, unit="seconds", minimum=0.0)


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
        "100 and return at 200, and worker 0 die at 350 for good.",
        stages=("train",),
        only_if=(*_CHOSEN, has("simulation.synchronous", False)),
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
        "Time until a message between worker and server begins to arrive, in each direction.",
    )
    exchange_bytes_per_second: float | None = _of_simulation(
        None,
        "Bandwidth between a worker and the server, in each direction; 'none' is infinite.",
        unit="bytes per second",
        minimum=1.0,
    )
    replay: str | None = option(
        None,
        "Repeat the run whose RUN/logs/exchanges.jsonl this is: the same batches by the same "
        "workers, pushed in the same order.",
        stages=("train",),
        only_if=(_SIMULATED,),
    )
