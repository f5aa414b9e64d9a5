"""Pairs that occurred before, or that must not be trained on: found by hashes, in bounded memory.

A key is a hash of 64 bits: equal text has equal keys, other text practically never. (Among 100
million different pairs, two share a key with a probability of 0.0003.)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.preprocessing.rules import Verdict, Verdicts

Keys = npt.NDArray[np.uint64]

KEY = np.dtype("<u8")

SORTED_KEYS = 4_000_000
"""So many keys are sorted in memory at a time; more are divided among files first."""

_PLACED = np.dtype([("key", "<u8"), ("place", "<u8")])


def pair_keys(sources: Iterable[str], targets: Iterable[str]) -> bytes:
    """Hash pairs of lines, each to the 8 bytes of its key."""
    return text_keys([f"{s}\n{t}" for s, t in zip(sources, targets, strict=True)])


def text_keys(texts: Iterable[str]) -> bytes:
    """Hash texts, each to the 8 bytes of its key."""
    blake2b = hashlib.blake2b
    return b"".join([blake2b(text.encode(), digest_size=8).digest() for text in texts])


def mark_repeated(verdicts: Verdicts, keys: Keys, verdict: Verdict, scratch: Path) -> None:
    """Drop every pair whose key occurred before; pairs already dropped don't count.

    Args:
        verdicts: One `Verdict` for each pair, changed in place: [N].
        keys: The pairs' keys, which may lie in a file: [N].
        verdict: What becomes of those that are dropped.
        scratch: A directory for what does not fit into memory.
    """
    num_parts = 1 << max(0, (len(keys) - 1) // SORTED_KEYS).bit_length()
    if num_parts == 1:
        _mark_within(verdicts, keys, np.arange(len(keys)), verdict)
        return
    paths = [scratch / f"keys-{part}" for part in range(num_parts)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for path in paths:
            stack.callback(path.unlink)
        for start in range(0, len(keys), SORTED_KEYS):
            some = np.asarray(keys[start : start + SORTED_KEYS])
            parts = (some >> np.uint64(32)) % np.uint64(num_parts)
            for part, file in enumerate(files):
                here = np.flatnonzero(parts == part)
                placed = np.empty(len(here), _PLACED)
                placed["key"], placed["place"] = some[here], here + start
                file.write(placed.tobytes())
        for path, file in zip(paths, files, strict=True):
            file.close()
            placed = np.fromfile(path, _PLACED)
            _mark_within(verdicts, placed["key"], placed["place"].astype(np.int64), verdict)


def _mark_within(
    verdicts: Verdicts, keys: Keys, places: npt.NDArray[np.int64], verdict: Verdict
) -> None:
    """Mark what is repeated among some keys, given in the order of their places."""
    candidates = np.flatnonzero(verdicts[places] == Verdict.KEPT)
    _, first = np.unique(np.asarray(keys)[candidates], return_index=True)
    repeated = np.ones(len(candidates), dtype=bool)
    repeated[first] = False
    verdicts[places[candidates[repeated]]] = verdict


def mark_shared(verdicts: Verdicts, keys: Keys, others: npt.NDArray[Any]) -> None:
    """Drop as PROTECTED the pairs whose keys are among others.

    Args:
        verdicts: One `Verdict` for each pair, changed in place: [N].
        keys: The pairs' keys, which may lie in a file: [N].
        others: Keys that fit into memory.
    """
    others = np.unique(others)
    for start in range(0, len(keys), SORTED_KEYS):
        part = slice(start, start + SORTED_KEYS)
        shared, _ = _find(np.asarray(keys[part]), others)
        verdicts[part][shared & (verdicts[part] == Verdict.KEPT)] = Verdict.PROTECTED


def count_shared(keys: Keys, others: Keys) -> int:
    """Count the keys that are among others, which may lie in a file."""
    unique, counts = np.unique(keys, return_counts=True)
    found = np.zeros(len(unique), np.bool_)
    for start in range(0, len(others), SORTED_KEYS):
        shared, places = _find(np.asarray(others[start : start + SORTED_KEYS]), unique)
        found[places[shared]] = True
    return int(counts[found].sum())


def _find(
    keys: Keys, others: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Say which keys are among others, few and sorted, and where."""
    if not len(others):
        return np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.intp)
    places = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    return others[places] == keys, places
