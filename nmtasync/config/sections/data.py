"""Options of the section `data`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.languages import parse_language
from nmtasync.config.option import option, train_flag

_of_preprocess = partial(option, stages=("preprocess",))


@dataclass(frozen=True)
class DataConfig:
    """From raw text to mini-batches."""

    source_language: str | None = _of_preprocess(
        None,
        "Code of the source language, as de, pt-BR or zho_Hans: recorded, as BCP 47 writes it, "
        "with the corpus and with the scores of test sets.",
        parse=parse_language,
    )
    target_language: str | None = option(
        None,
        "Code of the target language, as zh, jpn_Jpan or ja_JP: recorded like that of the source. "
        "BLEU and TER split languages written without spaces by it.",
        parse=parse_language,
        stages=("preprocess", "train", "evaluate"),
    )
    vocab_size: int = _of_preprocess(8000, "Size of each vocabulary.", unit="pieces", minimum=16)
    vocab_type: str = _of_preprocess(
        "unigram",
        "SentencePiece algorithm.",
        choices=("unigram", "bpe"),
    )
    joint_vocabulary: bool = _of_preprocess(True, "Learn one vocabulary for both languages.")
    byte_fallback: bool = option(
        True, "Spell characters that the vocabulary lacks as bytes, so nothing is unknown."
    )
    character_coverage: float = option(
        0.9999,
        "Share of the characters that the vocabulary covers by itself.",
        minimum=0.9,
        maximum=1.0,
    )
    normalization: str = _of_preprocess(
        "nmt_nfkc",
        "What the vocabulary does to characters: Unicode's NFKC with kinds of spaces made one, "
        "NFKC, or nothing. What NFKC rewrites, as the wide punctuation of Chinese, is in no "
        "translation.",
        choices=("nmt_nfkc", "nfkc", "identity"),
    )
    vocab_from: str | None = _of_preprocess(
        None,
        "Use the vocabulary of this run, a directory, instead of learning one.",
    )
    max_length: int = _of_preprocess(
        200,
        "Drop training pairs with a longer side.",
        unit="pieces",
        minimum=1,
    )
    max_ratio: float | None = _of_preprocess(
        4.0,
        "Drop training pairs with one side this many times longer than the other, in pieces; "
        "pairs of at most 15 pieces a side pass.",
        minimum=1.0,
    )
    deduplicate: bool = _of_preprocess(
        True, "Drop a training pair that occurred before, to the letter."
    )
    batch_tokens: int = train_flag(
        1500,
        "Size of a mini-batch: its sentence pairs times the length of the longest side.",
        unit="tokens, padding counted",
        minimum=1,
    )
