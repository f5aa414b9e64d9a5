"""The types of numbers: their names, what this machine computes fast, and what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

NUMBER_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The types of numbers by the names that options have for them."""

MIN_SPEEDUP = 1.2
"""A narrow type is chosen where its products are at least this many times as fast: not all is
products."""

_FLAGS = ("flags", "features")
"""What /proc/cpuinfo calls the list, on x86 and on ARM."""


class PrecisionChoice(NamedTuple):
    """In which precision to compute, and why; `precision` is never "auto"."""

    precision: str
    reason: str


def cpu_flags() -> set[str]:
    """List what this machine's processor says that it can do."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    named = (line.partition(":") for line in lines)
    return {
        flag for name, _, flags in named if name.strip().lower() in _FLAGS for flag in flags.split()
    }


def has_bf16_units(flags: set[str]) -> bool:
    """Whether a processor multiplies bf16 itself: avx512_bf16, amx_bf16, bf16 or svebf16."""
    return any(flag.endswith("bf16") for flag in flags)
