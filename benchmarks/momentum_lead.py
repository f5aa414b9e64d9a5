#!/usr/bin/env python
"""How curved a loss may be before training with late gradients diverges, by the lead of momentum.

    python benchmarks/momentum_lead.py

Arithmetic, no training: on a parabola of curvature c, momentum whose gradients are s updates
late is a linear recurrence, which is stable while all roots of its polynomial lie inside the unit
circle. Printed is the largest learning rate times c for which they do: a network can be trained
with a learning rate as long as its sharpest direction stays below that.
"""

from __future__ import annotations

import argparse

import numpy as np

LEADS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""In updates for each of staleness."""


def is_stable(rate: float, beta1: float, lead: float, staleness: int) -> bool:
    """Whether θ decays by steps of rate · (m + lead · (m − m before)).

    Args:
        rate: Learning rate times curvature.
        beta1: Decay of the momentum m = β1 m + (1 − β1) θ(t−s).
        lead: In updates.
        staleness: s.
    """
    momentum_and_sum = np.polymul([1.0, -1.0], [1.0, -beta1])
    late = np.polymul(momentum_and_sum, [1.0] + [0.0] * staleness)
    steps = rate * (1 - beta1) * np.array([1 + lead, -lead])
    return bool(np.all(np.abs(np.roots(np.polyadd(late, steps))) < 1))


def largest_stable(beta1: float, lead: float, staleness: int) -> float:
    """The learning rate times curvature up to which it is stable, to one percent."""
    rates = np.geomspace(0.01, 1000, 1158)
    unstable = [rate for rate in rates if not is_stable(rate, beta1, lead, staleness)]
    return float(min(unstable, default=np.inf))


def main() -> None:
    """Print a table for each staleness."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for staleness in (0, 1, 3, 7):
        print(f"staleness {staleness}; lead in updates for each of staleness")
        print("beta1   " + "".join(f"{lead:>8}" for lead in LEADS))
        for beta1 in (0.0, 0.5, 0.9, 0.95, 0.98):
            row = [largest_stable(beta1, lead * staleness, staleness) for lead in LEADS]
            print(f"{beta1:<8}" + "".join(f"{value:8.2f}" for value in row))


if __name__ == "__main__":
    main()
