"""The stage `preprocess`: raw parallel text to a vocabulary and binarised, memory-mapped corpora.

Three passes: read and clean, learn the vocabulary (or take another run's), segment and write.
Corpora may be larger than memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nmtasync.config.languages import warn_of_missing_spaces
from nmtasync.config.load import convert, to_toml
from nmtasync.config.schema import OPTIONS, Config, DataConfig
from nmtasync.data.alignment import MAX_PIECES
from nmtasync.data.all_or_nothing import all_or_nothing
from nmtasync.data.binarise import binarise
from nmtasync.data.borrowed_vocabulary import borrow_vocabulary
from nmtasync.data.cleaning import mark_duplicates
from nmtasync.data.corpus import PairPaths, check_input
from nmtasync.data.report import CorpusReport, LostCharacters, PreprocessReport, write_manifest
from nmtasync.data.staging import OnProgress, StagedCorpus, stage_corpus
from nmtasync.data.vocabulary import Vocabulary, VocabularyPair, learn_vocabulary
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, explain_write_errors

VOCABULARY_SAMPLE_PAIRS = 1_000_000
"""The vocabulary is learned from at most this many pairs, spread evenly over the corpus."""

REFERENCES_SAMPLE = 10_000
"""At most this many references are searched for spaces, and for characters that the vocabulary
can't produce."""

_STAGED = ".staged"
"""Where the text lies meanwhile: on the disk of RUN/data, which is the one with room."""


def preprocess(
    run: RunDirectory,
    train: Sequence[PairPaths],
    valid: Sequence[PairPaths],
    config: DataConfig,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda step, done, total: None,
) -> PreprocessReport:
    """Clean parallel text, learn the vocabulary and write the binarised corpora into RUN.

    Of the validation pairs only those with an empty side are dropped. RUN gets all or nothing.

    Args:
        run: Where the results go.
        train: The training corpus, in pairs of files; all have alignments, or none has.
        valid: The validation corpus, likewise, without alignments.
        config: Vocabulary and filters.
        overwrite: Whether to replace the results of an earlier preprocessing.
        on_progress: Told how far it is.

    Returns:
        What was read, dropped and written.

    Raises:
        UserError: An input can't be used, or RUN is taken.
        NmtasyncError: The disk is full.
    """
    start = time.perf_counter()
    config = _with_tags(config)
    _refuse_unusable(train, valid, config)
    vocabularies = None
    if config.vocab_from is not None:
        vocabularies, config = borrow_vocabulary(config, config.vocab_from)
    with (
        explain_write_errors(run.root),
        run.lock(),
        all_or_nothing(run, overwrite=overwrite) as out,
    ):
        staged = out / "data" / _STAGED
        staged.mkdir()
        training, validation = _stage_both(train, valid, staged, config, on_progress)
        vocabularies = vocabularies or _learn(training, config, on_progress)
        vocabularies.save(out / "vocab")
        references = [target for _, target in validation.sample(REFERENCES_SAMPLE)]
        report = PreprocessReport(
            lost_characters=_lost_characters(references, vocabularies.target),
            missing_spaces=warn_of_missing_spaces(references, config.target_language),
            train=_binarise(training, out, vocabularies, config, on_progress),
            valid=_binarise(validation, out, vocabularies, None, on_progress),
            overlap=validation.count_shared(training),
            config=config,
            vocabularies=vocabularies,
            seconds=time.perf_counter() - start,
        )
        staged.rmdir()
        (out / "config.toml").write_text(to_toml(Config(data=config), only=["data"]), "utf-8")
        write_manifest(out, {"train": training.files, "valid": validation.files}, report)
    return report


def _stage_both(
    train: Sequence[PairPaths],
    valid: Sequence[PairPaths],
    staged: Path,
    config: DataConfig,
    on_progress: OnProgress,
) -> tuple[StagedCorpus, StagedCorpus]:
    training = stage_corpus("train", train, staged, config.max_length, on_progress)
    validation = stage_corpus("valid", valid, staged, None, on_progress)
    if config.deduplicate:
        mark_duplicates(training.verdicts, training.keys)
    for corpus in (training, validation):
        _refuse_nothing_left(corpus)
    return training, validation


def _binarise(
    corpus: StagedCorpus,
    out: Path,
    vocabularies: VocabularyPair,
    filters: DataConfig | None,
    on_progress: OnProgress,
) -> CorpusReport:
    """Write a corpus as ids, and let go of what was staged."""
    report = binarise(corpus, out / "data", vocabularies, filters, on_progress)
    _refuse_nothing_left(corpus)
    shutil.rmtree(corpus.directory)
    return report


def _refuse_unusable(
    train: Sequence[PairPaths], valid: Sequence[PairPaths], config: DataConfig
) -> None:
    """Refuse inputs that can't be used before RUN is touched."""
    for paths in (*train, *valid):
        for path in paths.all():
            check_input(path)
    if train[0].alignment is not None and config.max_length > MAX_PIECES:
        raise UserError(
            f"is {config.max_length}, but sentences with alignments have at most {MAX_PIECES} "
            "pieces",
            where="data.max_length",
            remedy="lower it, or leave out --alignments",
        )


def _with_tags(config: DataConfig) -> DataConfig:
    """Write languages as configuration files have them, also where a program has named them."""
    names = {key: f"data.{key}" for key in ("source_language", "target_language")}
    tags = {k: convert(OPTIONS[n], getattr(config, k), where=n) for k, n in names.items()}
    return dataclasses.replace(config, **tags)


def _learn(corpus: StagedCorpus, config: DataConfig, on_progress: OnProgress) -> VocabularyPair:
    def learn(lines: Iterable[str], name: str) -> Vocabulary:
        on_progress(f"learning the {name} vocabulary", 0, None)
        return learn_vocabulary(lines, config, where=f"{name} vocabulary")

    if config.joint_vocabulary:
        both = itertools.chain.from_iterable(corpus.sample(VOCABULARY_SAMPLE_PAIRS))
        joint = learn(both, "joint")
        return VocabularyPair(joint, joint, joint=True)
    sources = (source for source, _ in corpus.sample(VOCABULARY_SAMPLE_PAIRS))
    targets = (target for _, target in corpus.sample(VOCABULARY_SAMPLE_PAIRS))
    return VocabularyPair(learn(sources, "source"), learn(targets, "target"), joint=False)


def _lost_characters(references: list[str], vocabulary: Vocabulary) -> LostCharacters:
    lost = vocabulary.lost_characters(references)
    often = Counter(itertools.chain.from_iterable(map(sorted, lost))).most_common(8)
    examples = "".join(character for character, _ in often)
    return LostCharacters(len(lost), sum(map(bool, lost)), examples)


def _refuse_nothing_left(corpus: StagedCorpus) -> None:
    if corpus.num_kept:
        return
    reasons = ", ".join(f"{d.num_pairs:,} {d.reason}" for d in corpus.dropped())
    raise UserError(
        f"none of the {len(corpus):,} pairs is left after cleaning ({reasons})",
        where=corpus.files[0][0].path,
        remedy="check that these are the right files",
    )
