"""The stage `preprocess`: raw parallel text to a vocabulary and binarised, memory-mapped corpora.

Passes: read and clean (staging.py), find duplicates (duplicates.py), learn the vocabulary
(vocabularies.py), segment and write (binarise.py). Corpora may be larger than memory. A call that
was cut off goes on where it was, if the next one asks for the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nmtasync
from nmtasync.config.languages import warn_of_missing_spaces
from nmtasync.config.load import convert, to_toml
from nmtasync.config.schema import OPTIONS, Config, DataConfig
from nmtasync.data.alignment import MAX_PIECES
from nmtasync.data.cleaning import clean_line
from nmtasync.data.corpus import PairPaths, TextReader
from nmtasync.data.decompression import STANDARD_INPUT, check_input, is_stream
from nmtasync.data.shards_writer import forget_journal
from nmtasync.data.vocabulary import SENTENCEPIECE_VERSION, Vocabulary, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.machine.cores import available_cores
from nmtasync.machine.ordered_pool import OrderedPool
from nmtasync.preprocessing.all_or_nothing import all_or_nothing
from nmtasync.preprocessing.binarise import REJECTED_LATER, binarise
from nmtasync.preprocessing.clean_block import BlockCleaner
from nmtasync.preprocessing.dropped import Dropped, merged
from nmtasync.preprocessing.duplicates import (
    KEY,
    count_shared,
    mark_repeated,
    mark_shared,
    text_keys,
)
from nmtasync.preprocessing.report import (
    CorpusReport,
    LostCharacters,
    PreprocessReport,
    write_manifest,
)
from nmtasync.preprocessing.rules import Verdict
from nmtasync.preprocessing.staging import REJECTED, OnProgress, StagedCorpus, stage_corpus
from nmtasync.preprocessing.vocabularies import given_vocabularies, learn_vocabularies, sample
from nmtasync.run_directory import RunDirectory, explain_write_errors

REFERENCES_SAMPLE = 10_000
"""At most this many references are searched for spaces, and for characters that the vocabulary
can't produce."""

_STAGED = ".staged"
"""Where the text lies meanwhile: on the disk of RUN/data, which is the one with room."""

_DISCARDED = ".discarded"


@dataclass(frozen=True)
class Inputs:
    """What is read.

    Attributes:
        train: The training corpora; all have alignments, or none has.
        valid: The validation corpora, likewise, without alignments.
        protect: Files of text that must not be trained on, as test sets.
    """

    train: Sequence[PairPaths]
    valid: Sequence[PairPaths]
    protect: Sequence[Path] = ()

    def all(self) -> list[Path]:
        """List all files."""
        pairs = itertools.chain.from_iterable(paths.all() for paths in (*self.train, *self.valid))
        return [*pairs, *self.protect]


def preprocess(
    run: RunDirectory,
    train: Sequence[PairPaths],
    valid: Sequence[PairPaths],
    config: DataConfig,
    *,
    protect: Sequence[Path] = (),
    rejects: Path | None = None,
    overwrite: bool = False,
    num_processes: int | None = None,
    on_progress: OnProgress = lambda step, done, total: None,
) -> PreprocessReport:
    """Clean parallel text, learn the vocabulary and write the binarised corpora into RUN.

    Of the validation pairs only those with an empty side are dropped. RUN gets all or nothing.

    Args:
        run: Where the results go.
        train: The training corpora; all have alignments, or none has.
        valid: The validation corpora, likewise, without alignments.
        config: Vocabulary and filters.
        protect: Files whose lines must not be trained on, as either side of test sets.
        rejects: Where to write what was dropped, with the reason.
        overwrite: Whether to replace the results of an earlier preprocessing.
        num_processes: How many processes may work beside this one; None for one on each core.
        on_progress: Told how far it is.

    Returns:
        What was read, dropped and written.

    Raises:
        UserError: An input can't be used, or RUN is taken.
        NmtasyncError: The disk is full.
    """
    start = time.perf_counter()
    config = _with_tags(config)
    inputs = Inputs(train, valid, protect)
    _refuse_unusable(inputs, config)
    given, config = given_vocabularies(config)
    with (
        explain_write_errors(run.root),
        run.lock(),
        all_or_nothing(run, overwrite=overwrite, job=_job(inputs, config, given, rejects)) as out,
        OrderedPool(num_processes or available_cores()) as pool,
    ):
        stage = _Stage(out, inputs, config, rejects is not None, pool, on_progress)
        report = stage.run(given, start)
        if rejects is not None:
            stage.write_rejected(rejects)
        stage.clean_up()
        (out / "config.toml").write_text(to_toml(Config(data=config), only=["data"]), "utf-8")
        write_manifest(out, stage.files, report)
    return report


class _Stage:
    """One call of `preprocess`, in the directory that becomes RUN's content."""

    def __init__(
        self,
        out: Path,
        inputs: Inputs,
        config: DataConfig,
        keep_rejected: bool,
        pool: OrderedPool,
        on_progress: OnProgress,
    ) -> None:
        self._out = out
        self._inputs = inputs
        self._config = config
        self._keep_rejected = keep_rejected
        self._pool = pool
        self._on_progress = on_progress
        self._staged = out / "data" / _STAGED
        self._corpora: list[StagedCorpus] = []
        self._seconds: dict[str, float] = {}

    @property
    def files(self) -> dict[str, StagedCorpus]:
        """What was read, by "train" and "valid"."""
        return {corpus.name: corpus for corpus in self._corpora}

    def run(self, given: VocabularyPair | None, start: float) -> PreprocessReport:
        """Do all passes; arguments: the vocabularies if there are any, and when it began."""
        config = self._config
        self._staged.mkdir(exist_ok=True)
        with self._timed("reading"):
            training = self._stage("train", self._inputs.train)
            validation = self._stage("valid", self._inputs.valid)
        self._corpora = [training, validation]
        self._on_progress("finding duplicates", 0, None)
        with self._timed("duplicates"):
            overlap = count_shared(validation.keys, training.keys)
            self._mark(training, validation)
        for corpus in (training, validation):
            _refuse_nothing_left(corpus, corpus.num_kept)
        with self._timed("vocabulary"):
            vocabularies = given or self._learn(training)
        vocabularies.save(self._out / "vocab")
        everything = dataclasses.replace(config, vocab_sample_pairs=REFERENCES_SAMPLE)
        references = [target for _, target in sample(validation, everything)]
        with self._timed("binarising"):
            train = self._binarise(training, vocabularies, config)
            valid = self._binarise(validation, vocabularies, None)
        return PreprocessReport(
            lost_characters=_lost_characters(references, vocabularies.target),
            missing_spaces=warn_of_missing_spaces(references, config.target_language),
            train=train,
            valid=valid,
            overlap=overlap,
            config=config,
            vocabularies=vocabularies,
            seconds=time.perf_counter() - start,
            seconds_by_step=self._seconds,
        )

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[step] = time.perf_counter() - start

    def _stage(self, name: str, corpora: Sequence[PairPaths]) -> StagedCorpus:
        config, filters = self._config, name == "train"
        by_sides = config.deduplicate_side != "none" or bool(self._inputs.protect)
        cleaner = BlockCleaner(
            config,
            filters=filters,
            side_keys=filters and by_sides,
            keep_rejected=self._keep_rejected,
        )
        corpus = stage_corpus(name, corpora, self._staged, cleaner, self._pool, self._on_progress)
        _refuse_nothing_left(corpus, len(corpus))
        return corpus

    def _mark(self, training: StagedCorpus, validation: StagedCorpus) -> None:
        """Drop pairs because of other pairs."""
        config, scratch = self._config, training.directory
        if config.drop_protected:
            mark_shared(training.verdicts, training.keys, validation.keys)
            if self._inputs.protect:
                lines = itertools.chain.from_iterable(map(TextReader, self._inputs.protect))
                hashed = text_keys(line for line in map(clean_line, lines) if line)
                protected = np.frombuffer(hashed, KEY)
                for side in (0, 1):
                    mark_shared(training.verdicts, training.side_keys(side), protected)
        if config.deduplicate:
            mark_repeated(training.verdicts, training.keys, Verdict.DUPLICATE, scratch)
        for side, name in enumerate(("source", "target")):
            if config.deduplicate_side in (name, "either"):
                keys = training.side_keys(side)
                mark_repeated(training.verdicts, keys, Verdict.DUPLICATE_SIDE, scratch)

    def _learn(self, training: StagedCorpus) -> VocabularyPair:
        """Learn the vocabularies, or take those that a call before this one has learned."""
        learned = self._staged / "vocab"
        if not learned.exists():
            vocabularies = learn_vocabularies(training, self._config, self._on_progress)
            aside = self._staged / "vocab.tmp"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            vocabularies.save(aside)
            aside.rename(learned)
        return VocabularyPair.load(learned)

    def _binarise(
        self, corpus: StagedCorpus, vocabularies: VocabularyPair, filters: DataConfig | None
    ) -> CorpusReport:
        report = binarise(
            corpus,
            self._out / "data",
            vocabularies,
            filters,
            keep_rejected=self._keep_rejected,
            pool=self._pool,
            on_progress=self._on_progress,
        )
        _refuse_nothing_left(corpus, report.num_kept, report.dropped)
        return report

    def write_rejected(self, path: Path) -> None:
        """Put together what was dropped."""
        aside = path.with_name(f".{path.name}.tmp")
        try:
            with aside.open("wb") as file:
                for corpus in self._corpora:
                    for name in (REJECTED, REJECTED_LATER):
                        with (corpus.directory / name).open("rb") as part:
                            shutil.copyfileobj(part, file)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def clean_up(self) -> None:
        """Remove what only a call that goes on needs: the last first, so that none finds half."""
        for corpus in self._corpora:
            forget_journal(self._out / "data" / corpus.name)
        discarded = self._staged.with_name(_DISCARDED)
        shutil.rmtree(discarded, ignore_errors=True)
        self._staged.rename(discarded)
        shutil.rmtree(discarded)


def _job(
    inputs: Inputs, config: DataConfig, given: VocabularyPair | None, rejects: Path | None
) -> str | None:
    """Describe what is asked for, so that the same is gone on with; None if it can't be."""
    paths = inputs.all()
    if any(map(is_stream, paths)):
        return None
    rules = (config.source_normalization_rules, config.target_normalization_rules)
    paths += [Path(name) for name in rules if name is not None]
    stats = [path.stat() for path in paths if path.exists()]
    return json.dumps(
        {
            "nmtasync": nmtasync.__version__,
            "sentencepiece": SENTENCEPIECE_VERSION,
            "options": dataclasses.asdict(config),
            "vocabulary": given and given.digest(),
            "inputs": [_describe(paths) for paths in (*inputs.train, *inputs.valid)],
            "protect": [str(path.absolute()) for path in inputs.protect],
            "files": [[stat.st_size, stat.st_mtime_ns, stat.st_ino] for stat in stats],
            "rejects": rejects is not None,
        }
    )


def _describe(paths: PairPaths) -> list[Any]:
    return [*(str(path.absolute()) for path in paths.all()), paths.name, paths.weight]


def _refuse_unusable(inputs: Inputs, config: DataConfig) -> None:
    """Refuse inputs that can't be used before RUN is touched."""
    for path in inputs.all():
        check_input(path)
    if inputs.all().count(STANDARD_INPUT) > 1:
        raise UserError("can be read only once", where="standard input (-)")
    if inputs.protect and not config.drop_protected:
        raise UserError("has no effect with --no-drop-protected", where="--protect")
    if inputs.train[0].alignment is not None and config.max_length > MAX_PIECES:
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


def _lost_characters(references: list[str], vocabulary: Vocabulary) -> LostCharacters:
    lost = vocabulary.lost_characters(references)
    often = Counter(itertools.chain.from_iterable(map(sorted, lost))).most_common(8)
    examples = "".join(character for character, _ in often)
    return LostCharacters(len(lost), sum(map(bool, lost)), examples)


def _refuse_nothing_left(
    corpus: StagedCorpus, num_kept: int, dropped: Sequence[Dropped] | None = None
) -> None:
    if num_kept:
        return
    all_dropped = merged([corpus.dropped, corpus.dropped_later()]) if dropped is None else dropped
    reasons = ", ".join(f"{each.num_pairs:,} {each.reason}" for each in all_dropped)
    raise UserError(
        f"none of the {corpus.num_read:,} pairs is left after cleaning ({reasons})",
        where=corpus.paths[0].source,
        remedy="check that these are the right files",
    )
