"""What is drawn in a simulation, by names alone: so there is no generator's state to keep."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from statistics import NormalDist

_NANOSECONDS = 10**9


def jitter_factor(deviation: float, seed: int, worker: int, epoch: int, index: int) -> float:
    """Draw by how much longer a batch takes than it ought to.

    Args:
        deviation: As of `log_normal`.
        seed: Of the run.
        worker: Who computes the batch.
        epoch: Of the batch.
        index: Of the batch.
    """
    return log_normal(deviation, f"jitter:{seed}:{worker}:{epoch}:{index}")


def jittered(seconds: Fraction, deviation: float, name: str) -> Fraction:
    """Let a time vary; arguments as of `log_normal`."""
    return to_nanoseconds(seconds * Fraction(log_normal(deviation, name)))


def log_normal(deviation: float, name: str) -> float:
    """Draw a factor with mean 1, whose logarithm is normally distributed.

    Args:
        deviation: Relative standard deviation of the factor.
        name: Of what is drawn.
    """
    normal = NormalDist().inv_cdf(uniform(name))
    variance = math.log1p(deviation**2)
    return math.exp(normal * math.sqrt(variance) - variance / 2)


def uniform(name: str) -> float:
    """Draw a number between 0 and 1."""
    bits = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 12
    return (bits + 0.5) / 2**52


def until_failure(mean_seconds: float, seed: int, host: int, start: Fraction) -> Fraction:
    """Draw after how many seconds a host fails, exponentially distributed.

    Args:
        mean_seconds: On average.
        seed: Of the run.
        host: Which.
        start: When it began to run.
    """
    drawn = -mean_seconds * math.log(uniform(f"failure:{seed}:{host}:{start}"))
    return max(to_nanoseconds(Fraction(drawn)), Fraction(1, _NANOSECONDS))


def to_nanoseconds(seconds: Fraction) -> Fraction:
    """Round what was drawn, so that fractions stay short."""
    return Fraction(round(seconds * _NANOSECONDS), _NANOSECONDS)
