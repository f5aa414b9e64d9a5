"""Options of the section `data`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from nmtasync.config.languages import parse_language
from nmtasync.config.option import option, train_flag
from nmtasync.errors import UserError

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
    vocab_model: str | None = _of_preprocess(
        None,
        "Use this SentencePiece model, a file, for both languages instead of learning one; two "
        "files with a comma between them are for source and target.",
    )
    vocab_sample_pairs: int = _of_preprocess(
        1_000_000,
        "Learn the vocabulary from at most so many pairs, spread evenly over the corpora.",
        unit="pairs",
        minimum=1,
    )
    vocab_sample_characters: int = _of_preprocess(
        30_000_000,
        "Learn each vocabulary from at most about so much text.",
        unit="characters",
        minimum=1,
    )
    user_symbols: str | None = _of_preprocess(
        None,
        "Pieces that are never cut, as tags and placeholders, with spaces between them.",
    )
    source_normalization_rules: str | None = _of_preprocess(
        None,
        "Rewrite characters of the source side by the rules of this file, which SentencePiece's "
        "documentation describes, instead of by --normalization.",
    )
    target_normalization_rules: str | None = _of_preprocess(
        None,
        "The same of the target side.",
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
    max_repetitions: int | None = _of_preprocess(
        8,
        "Drop training pairs with a side that says the same, of up to 8 pieces, more often than "
        "this in a row.",
        unit="times",
        minimum=1,
    )
    min_identical_words: int | None = _of_preprocess(
        4,
        "Drop training pairs with equal sides of at least so many words: they teach to copy.",
        unit="words",
        minimum=1,
    )
    min_letters: float | None = _of_preprocess(
        0.3,
        "Drop training pairs with a side of which a smaller share of the characters is letters.",
        minimum=0.0,
        maximum=1.0,
    )
    min_script: float | None = _of_preprocess(
        0.5,
        "Drop training pairs with a side of which a smaller share of the letters is of the "
        "script of its language, where its code is given and implies one.",
        minimum=0.0,
        maximum=1.0,
    )
    min_language: float | None = _of_preprocess(
        None,
        "Drop training pairs with a side that is in its language with a smaller probability, by "
        "the library py3langid. Slow: some thousand pairs a second on each core.",
        minimum=0.0,
        maximum=1.0,
    )
    drop_control_characters: bool = _of_preprocess(
        True, "Drop training pairs with control characters, or with U+FFFD, of broken encodings."
    )
    deduplicate: bool = _of_preprocess(
        True, "Drop a training pair that occurred before, to the letter."
    )
    deduplicate_side: str = _of_preprocess(
        "none",
        "Drop a training pair of which this side occurred before.",
        choices=("none", "source", "target", "either"),
    )
    drop_protected: bool = _of_preprocess(
        True,
        "Drop training pairs that are in the validation corpus too, and those with a side that "
        "is a line of a file of --protect.",
    )
    source_subword_alpha: float | None = train_flag(
        None,
        "Segment source sentences anew each time they are trained on: with a BPE vocabulary, "
        "leave out merges with this probability (BPE-dropout; 0.1 is usual); with a unigram one, "
        "draw segmentations by this power of their probability (0.2 is usual, and 1 hardly any "
        "change).",
        above=0.0,
        maximum=1.0,
    )
    target_subword_alpha: float | None = train_flag(
        None, "The same of the target sentences.", above=0.0, maximum=1.0
    )
    batch_tokens: int | str = train_flag(
        1500,
        "Size of a mini-batch: its sentence pairs times the length of the longest side; 'fit' is "
        "as much as memory holds, tried on the device when training begins: at most 16,384 on a "
        "CPU, 131,072 on a GPU, and a hundredth of the corpus for each worker.",
        unit="tokens, padding counted",
        minimum=1,
        choices=("fit",),
    )

    @property
    def tokens_per_batch(self) -> int:
        """`batch_tokens`, where it must be a number.

        Raises:
            UserError: It is 'fit' still.
        """
        if isinstance(self.batch_tokens, str):
            raise UserError(
                f"is {self.batch_tokens!r}, and only training finds out how much that is",
                where="data.batch_tokens",
                remedy="train first, or set a number",
            )
        return self.batch_tokens
