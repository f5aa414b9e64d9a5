"""Options of the section `decoding`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import option

_flag = partial(option, stages=("evaluate", "translate"))


@dataclass(frozen=True)
class DecodingConfig:
    """How translations are searched for."""

    beam_size: int = _flag(
        5,
        "Hypotheses that beam search keeps; 1 is greedy search.",
        minimum=1,
        maximum=1000,
    )
    length_normalization: float = _flag(
        1.0,
        "Compare hypotheses by score / length ** this; 0 is off.",
        minimum=0.0,
    )
    max_length_ratio: float = option(
        2.0,
        "Stop a hypothesis at this many times the source's length, plus ten.",
        unit="pieces per source piece",
        minimum=0.1,
        maximum=100.0,
    )
    batch_sentences: int = _flag(
        64,
        "Sentences that are translated together.",
        unit="sentences",
        minimum=1,
    )
