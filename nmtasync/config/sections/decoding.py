"""Options of the section `decoding`; Marian, fairseq and CTranslate2 call them so or alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.option import has, option

_flag = partial(option, stages=("evaluate", "translate"))
_scored = partial(option, stages=("evaluate", "translate", "score"))
_sampled = partial(_flag, only_if=(has("decoding.sampling", True),))


@dataclass(frozen=True)
class DecodingConfig:
    """How translations are searched for."""

    beam_size: int = _flag(
        5,
        "Hypotheses that beam search keeps; 1 is greedy search. Sampling has no beam.",
        minimum=1,
        maximum=1000,
    )
    length_penalty_type: str = _scored(
        "average",
        "What a score is divided by, n pieces with the end of sentence, A the exponent "
        "length_normalization: 'average' n ** A, 'gnmt' ((5 + n) / 6) ** A.",
        choices=("average", "gnmt"),
    )
    length_normalization: float = _scored(
        1.0,
        "The exponent of the length penalty: hypotheses are compared by score / length ** this; "
        "0 is off.",
        minimum=0.0,
        maximum=10.0,
    )
    min_length: int = _flag(
        0,
        "The shortest translation, the end of sentence not counted; blank lines stay blank.",
        unit="pieces",
        minimum=0,
        maximum=10000,
    )
    max_length_ratio: float = option(
        2.0,
        "Stop a hypothesis at this many times the source's length, plus ten.",
        unit="pieces per source piece",
        minimum=0.1,
        maximum=100.0,
    )
    no_repeat_ngram_size: int = _flag(
        0,
        "Let no n-gram of this many pieces come twice in a translation; 0 lets them.",
        unit="pieces",
        minimum=0,
        maximum=1000,
    )
    sampling: bool = _flag(
        False,
        "Draw each piece at random by its probability instead of searching for the best.",
    )
    temperature: float = _sampled(
        1.0,
        "Divide log probabilities by this before a piece is drawn; near 0 is greedy search.",
        minimum=0.001,
        maximum=1000.0,
    )
    top_k: int = _sampled(
        0,
        "Draw from this many of the most probable pieces; 0 is all.",
        unit="pieces",
        minimum=0,
    )
    top_p: float = _sampled(
        1.0,
        "Draw from the fewest pieces whose probabilities sum to this at least; after top_k.",
        above=0.0,
        maximum=1.0,
    )
    seed: int = _sampled(
        1,
        "Of the random numbers; with the same seed the same line, at the same place, is "
        "translated the same.",
        minimum=0,
    )
    batch_sentences: int = _scored(
        64,
        "Sentences that are translated together.",
        unit="sentences",
        minimum=1,
    )
    precision: str = _scored(
        "fp32",
        "The type in which linear layers multiply: 'int8' on CPUs with VNNI, 'bf16'; 'auto' tries "
        "which is the fastest here. Validation while training is always in fp32.",
        choices=("auto", "fp32", "bf16", "int8"),
    )
