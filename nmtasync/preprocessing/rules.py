"""Which sentence pairs are worth training on, and why the others are not.

Rules look at text before it is cut into pieces (`TextRules`), at pieces (`judge_pieces`), and at
other pairs (`duplicates.py`).
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.config.schema import DataConfig
from nmtasync.preprocessing.characters import CharacterKinds, Counts
from nmtasync.preprocessing.language_identification import LanguageIdentifier

Verdicts = npt.NDArray[np.uint8]

RATIO_FREE_PIECES = 15
"""Pairs whose longer side is no longer than this pass whatever their ratio: "Hi." may well be
"Einen wunderschönen guten Tag!", and a ratio of such small numbers says nothing."""

LONGEST_REPEATED = 8
"""The most pieces of what counts as repeated."""

_CHARACTERS_PER_PIECE = 64


class Verdict(enum.IntEnum):
    """What becomes of a pair. The order is that of the checks: the first that fails counts."""

    KEPT = 0
    EMPTY = 1
    TOO_LONG = 2
    CONTROL = 3
    IDENTICAL = 4
    FEW_LETTERS = 5
    SCRIPT = 6
    LANGUAGE = 7
    DUPLICATE = 8
    DUPLICATE_SIDE = 9
    PROTECTED = 10
    RATIO = 11
    REPEATS = 12

    @property
    def reason(self) -> str:
        """The words of the report."""
        return _REASONS[self]


_REASONS = (
    "kept",
    "empty side",
    "too long",
    "control characters",
    "identical sides",
    "few letters",
    "wrong script",
    "wrong language",
    "duplicate",
    "duplicate side",
    "in validation or protected",
    "length ratio",
    "repetitions",
)


class TextRules:
    """The rules that look at the text of single pairs.

    Args:
        config: Says which of them hold.
        filters: Whether it is a training corpus; of others only pairs with an empty side go.
    """

    def __init__(self, config: DataConfig, *, filters: bool) -> None:
        self._config = config
        self._filters = filters
        languages = config.source_language, config.target_language
        self._kinds = [CharacterKinds(language) for language in languages] if filters else []
        self._identifiers: list[LanguageIdentifier] = []
        if filters and config.min_language is not None:
            self._identifiers = [LanguageIdentifier.of(language) for language in languages]

    def judge(self, sources: Sequence[str], targets: Sequence[str]) -> Verdicts:
        """Judge pairs of cleaned lines: [N]."""
        sides = sources, targets
        lengths = [np.fromiter(map(len, side), np.int64, len(side)) for side in sides]
        verdicts = np.full(len(sources), Verdict.KEPT, np.uint8)
        if self._filters:
            self._filter(verdicts, sides, lengths)
        verdicts[np.minimum(*lengths) == 0] = Verdict.EMPTY
        return verdicts

    def _filter(
        self, verdicts: Verdicts, sides: tuple[Sequence[str], ...], lengths: list[Counts]
    ) -> None:
        """Apply the rules, the last one first, so that the first that fails stands there."""
        config = self._config
        for lines, identifier in zip(sides, self._identifiers, strict=False):
            assert config.min_language is not None
            candidates = np.flatnonzero(verdicts == Verdict.KEPT).tolist()
            shares = identifier.probabilities([lines[i] for i in candidates])
            verdicts[np.array(candidates)[shares < config.min_language]] = Verdict.LANGUAGE
        counts = [
            kinds.count(lines, sizes)
            for kinds, lines, sizes in zip(self._kinds, sides, lengths, strict=True)
        ]
        for count, kinds in zip(counts, self._kinds, strict=True):
            if config.min_script is not None and kinds.script is not None:
                foreign = count.own_letters < config.min_script * count.letters
                verdicts[foreign] = Verdict.SCRIPT
        for count in counts:
            if config.min_letters is not None:
                visible = count.characters - count.spaces
                verdicts[count.letters < config.min_letters * visible] = Verdict.FEW_LETTERS
        if (fewest := config.min_identical_words) is not None:
            equal = np.fromiter(map(operator.eq, *sides), np.bool_, len(verdicts))
            same = np.flatnonzero(equal).tolist()
            long = [i for i in same if len(sides[0][i].split()) >= fewest]
            verdicts[long] = Verdict.IDENTICAL
        for count in counts:
            if config.drop_control_characters:
                verdicts[count.controls > 0] = Verdict.CONTROL
        longest = config.max_length * _CHARACTERS_PER_PIECE
        verdicts[np.maximum(*lengths) > longest] = Verdict.TOO_LONG


def judge_pieces(
    source: tuple[npt.NDArray[Any], Counts],
    target: tuple[npt.NDArray[Any], Counts],
    filters: DataConfig | None,
) -> Verdicts:
    """Judge pairs by their pieces: [N].

    Args:
        source: The pieces of all source sentences, end to end, and how many each has: [N].
        target: The same of the target side.
        filters: Say how long a side may be, how many times longer than the other, and how often
            pieces may be repeated in a row; None keeps all but empty sides.
    """
    shorter, longer = np.minimum(source[1], target[1]), np.maximum(source[1], target[1])
    verdicts = np.full(len(longer), Verdict.KEPT, dtype=np.uint8)
    if filters is not None:
        if filters.max_repetitions is not None:
            for pieces, lengths in (source, target):
                verdicts[repeats(pieces, lengths, filters.max_repetitions)] = Verdict.REPEATS
        if filters.max_ratio is not None:
            unequal = longer > filters.max_ratio * shorter
            verdicts[unequal & (longer > RATIO_FREE_PIECES)] = Verdict.RATIO
        verdicts[longer > filters.max_length] = Verdict.TOO_LONG
    verdicts[shorter == 0] = Verdict.EMPTY  # nothing but characters that are normalised away
    return verdicts


def repeats(pieces: npt.NDArray[Any], lengths: Counts, most: int) -> npt.NDArray[np.bool_]:
    """Say which sentences repeat up to `LONGEST_REPEATED` pieces more than `most` times in a row.

    Args:
        pieces: The pieces of all sentences, end to end.
        lengths: How many each has: [N].
        most: How often the same may stand there.

    Returns:
        For each sentence: [N].
    """
    found = np.zeros(len(lengths), np.bool_)
    ends = np.cumsum(lengths)
    for period in range(1, LONGEST_REPEATED + 1):
        # A run of equal neighbours at this distance, as long as `most` further times need, has two
        # places next to each other among those that are half of it apart.
        needed = period * most
        step = max(1, needed // 2)
        equal = pieces[period::step] == pieces[:-period:step]
        if needed > 1 and not (equal[1:] & equal[:-1]).any():
            continue
        different = np.flatnonzero(pieces[period:] != pieces[:-period])
        edges = np.concatenate(([-1], different, [len(pieces) - period]))
        starts, run_lengths = edges[:-1] + 1, np.diff(edges) - 1
        for start, length in zip(
            starts[run_lengths >= needed], run_lengths[run_lengths >= needed], strict=True
        ):
            _mark_sentences(found, ends, int(start), int(start + length + period), needed + period)
    return found


def _mark_sentences(
    found: npt.NDArray[np.bool_], ends: Counts, start: int, end: int, needed: int
) -> None:
    """Mark the sentences that have so many pieces of a run between two places."""
    first, last = np.searchsorted(ends, (start, end - 1), side="right")
    for sentence in range(first, last + 1):
        begins = int(ends[sentence - 1]) if sentence else 0
        if min(end, int(ends[sentence])) - max(start, begins) >= needed:
            found[sentence] = True
