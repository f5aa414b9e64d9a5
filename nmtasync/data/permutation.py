"""A random order of any number of items, of which each part can be computed by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
_Uint64s = npt.NDArray[np.uint64]

_ROUNDS = 6
_PART = 1 << 15
"""Items that are computed together: their arrays stay in the processor's cache."""


class Permutation:
    """A bijection of 0 … N - 1 onto itself that keeps nothing but a few keys.

    A number is written as two digits of nearly the same base, about sqrt(N); each round adds to
    one digit a hash of the other and of the round's key, modulo the digit's base. What leads out
    of 0 … N - 1, of which there are fewer than sqrt(N), is mapped again until it does not.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 5 (the
    generalized Feistel construction) and section 3 (cycle walking).

    Args:
        size: N, less than 2^62.
        seed: What the order depends on, besides N.
    """

    def __init__(self, size: int, seed: Sequence[int]) -> None:
        self.size = size
        self._low = math.isqrt(max(size - 1, 0)) + 1
        self._high = -(-max(size, 1) // self._low)
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __call__(self, places: Int64s) -> Int64s:
        """Return what is at some places of the order: as many numbers from 0 to N - 1."""
        result = np.empty(len(places), np.int64)
        for start in range(0, len(places), _PART):
            part = slice(start, start + _PART)
            result[part] = self._part(places[part].astype(np.uint64))
        return result

    def _part(self, values: _Uint64s) -> _Uint64s:
        values = self._map(values)
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            again = self._map(values[outside])
            values[outside] = again
            outside = outside[again >= self.size]
        return values

    def _map(self, values: _Uint64s) -> _Uint64s:
        digits = list(np.divmod(values, np.uint64(self._low)))
        bases = np.uint64(self._high), np.uint64(self._low)
        for number, key in enumerate(self._keys):
            changed = number % 2
            total = digits[changed] + _below(bases[changed], _hash(digits[1 - changed], key))
            digits[changed] = np.minimum(total, total - bases[changed])  # which wraps round
        number_again: _Uint64s = digits[0] * bases[1] + digits[1]
        return number_again


def _hash(values: _Uint64s, key: np.uint64) -> _Uint64s:
    """Mix all bits: the finaliser of MurmurHash3, of the values and the key."""
    mixed = values ^ key
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(33))


def _below(bound: np.uint64, hashes: _Uint64s) -> _Uint64s:
    """Turn 64 random bits each into a number below `bound`, which has at most 32."""
    return ((hashes >> np.uint64(32)) * bound) >> np.uint64(32)
