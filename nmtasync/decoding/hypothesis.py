"""What a search finds, and how what differs in length is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nmtasync.config.schema import DecodingConfig

NEVER = float("-inf")
"""The score of what must not be, or is not there."""

TextOf = Callable[[list[int]], str]
"""Tells what text pieces spell: two hypotheses of one text are listed once."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        ids: Its pieces, without the end of sentence.
        score: The sum of their log probabilities in nats, the end of sentence included.
        normalized: The score divided by its length penalty.
        at_limit: Whether it ended because it had the greatest length that is allowed.
    """

    ids: list[int]
    score: float
    normalized: float
    at_limit: bool = False


NOTHING = Hypothesis([], NEVER, NEVER)
"""The translation by a network whose output is not a number."""


@dataclass(frozen=True)
class LengthPenalty:
    """What scores are divided by, so that long hypotheses are not at a disadvantage.

    Source: "gnmt" is equation 14 of Wu et al. 2016, "Google's Neural Machine Translation System".

    Attributes:
        kind: "average" or "gnmt".
        exponent: At 0 there is no penalty.
    """

    kind: str
    exponent: float

    @classmethod
    def of(cls, config: DecodingConfig) -> LengthPenalty:
        """Take it from the options of decoding."""
        return cls(config.length_penalty_type, config.length_normalization)

    def normalize(self, score: float, length: int) -> float:
        """Divide a score by the penalty of so many pieces, the end of sentence counted."""
        base = float(length) if self.kind == "average" else (5.0 + length) / 6.0
        return float(score / base**self.exponent)


class Found:
    """The finished hypotheses of one sentence, each text once.

    Args:
        text_of: Tells what counts as the same; None where no pieces come twice.
    """

    def __init__(self, text_of: TextOf | None) -> None:
        self.hypotheses: list[Hypothesis] = []
        self.num_added = 0
        self._text_of = text_of
        self._places: dict[str, int] = {}

    def add(self, hypothesis: Hypothesis) -> None:
        """Keep a hypothesis, or the better one of two that spell the same."""
        self.num_added += 1
        if self._text_of is not None:
            text = self._text_of(hypothesis.ids)
            place = self._places.setdefault(text, len(self.hypotheses))
            if place < len(self.hypotheses):
                if hypothesis.normalized > self.hypotheses[place].normalized:
                    self.hypotheses[place] = hypothesis
                return
        self.hypotheses.append(hypothesis)

    def best(self, number: int) -> list[Hypothesis]:
        """List the best, best first; `NOTHING` where there is none."""
        ranked = sorted(self.hypotheses, key=lambda h: h.normalized, reverse=True)
        return ranked[:number] or [NOTHING]
