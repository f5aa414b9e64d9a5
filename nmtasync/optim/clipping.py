"""Clipping by the norm of a gradient."""

from __future__ import annotations


def clip_factor(gradient_norm: float, clip_norm: float | None) -> float:
    """By how much to shrink a gradient so that its norm is at most `clip_norm`."""
    if clip_norm is None or gradient_norm <= clip_norm:
        return 1.0
    return clip_norm / gradient_norm
