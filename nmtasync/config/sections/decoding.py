"""Options of the section `decoding`."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.option import option


@dataclass(frozen=True)
class DecodingConfig:
    """How translations are searched for."""

    beam_size: int = option(
        5,
        "Hypotheses that beam search keeps; 1 is greedy search.",
        minimum=1,
        stages=("evaluate", "translate"),
    )
    length_normalization: float = option(
        1.0,
        "Compare hypotheses by score / length ** this; 0 is off.",
        minimum=0.0,
        stages=("evaluate", "translate"),
    )
    max_length_ratio: float = option(
        2.0,
        "Stop a hypothesis at this many times the source's length, plus ten.",
        unit="pieces per source piece",
        minimum=0.1,
    )
    batch_sentences: int = option(
        64,
        "Sentences that are translated together.",
        unit="sentences",
        minimum=1,
        stages=("evaluate", "translate"),
    )
