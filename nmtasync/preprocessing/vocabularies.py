"""The vocabularies of a run: another run's, models of another toolkit, or learned from a sample."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nmtasync.config.schema import DataConfig
from nmtasync.data.vocabulary import Vocabulary, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.preprocessing.borrowed_vocabulary import borrow_vocabulary
from nmtasync.preprocessing.character_rules import CharacterRules
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary, read_models
from nmtasync.preprocessing.rules import Verdict
from nmtasync.preprocessing.staging import OnProgress, StagedCorpus


def given_vocabularies(config: DataConfig) -> tuple[VocabularyPair | None, DataConfig]:
    """Return the vocabularies that need not be learned, and the config that fits them.

    Raises:
        UserError: They can't be used, or options contradict each other.
    """
    if config.vocab_from is not None and config.vocab_model is not None:
        raise UserError("leaves nothing to data.vocab_from", where="data.vocab_model")
    if config.vocab_model is not None:
        for name in ("user_symbols", "source_normalization_rules", "target_normalization_rules"):
            if getattr(config, name) is not None:
                raise UserError(
                    "has no effect on models that are given",
                    where=f"data.{name}",
                    remedy="leave it out, or data.vocab_model",
                )
        source, target = read_models(config.vocab_model)
        joint = source is target
        return (
            VocabularyPair(source, target, joint=joint),
            dataclasses.replace(config, joint_vocabulary=joint),
        )
    if config.vocab_from is not None:
        return borrow_vocabulary(config, config.vocab_from)
    return None, config


def learn_vocabularies(
    corpus: StagedCorpus, config: DataConfig, on_progress: OnProgress
) -> VocabularyPair:
    """Learn the vocabularies of both sides from a sample of a corpus.

    Raises:
        UserError: The corpus is too small for the size, or the rules can't be read.
    """
    paths = config.source_normalization_rules, config.target_normalization_rules
    if paths == (None, None):
        return _learn(corpus, config, on_progress, None)
    rules = [
        CharacterRules(config.normalization, None if path is None else Path(path)) for path in paths
    ]
    rewritten = dataclasses.replace(config, normalization="identity")
    learned = _learn(corpus, rewritten, on_progress, rules)
    source, target = rules[0].put_into(learned.source), rules[1].put_into(learned.target)
    if learned.joint:
        return VocabularyPair.of_joint(source, target)
    return VocabularyPair(source, target, joint=False)


def _learn(
    corpus: StagedCorpus,
    config: DataConfig,
    on_progress: OnProgress,
    rules: list[CharacterRules] | None,
) -> VocabularyPair:
    def pairs() -> Iterator[tuple[str, str]]:
        for source, target in sample(corpus, config):
            if rules is None:
                yield source, target
            else:
                yield rules[0].rewrite(source), rules[1].rewrite(target)

    def learn(lines: Iterable[str], name: str) -> Vocabulary:
        on_progress(f"learning the {name} vocabulary", 0, None)
        return learn_vocabulary(lines, config, where=f"{name} vocabulary")

    if config.joint_vocabulary:
        joint = learn(itertools.chain.from_iterable(pairs()), "joint")
        return VocabularyPair(joint, joint, joint=True)
    source = learn((source for source, _ in pairs()), "source")
    target = learn((target for _, target in pairs()), "target")
    return VocabularyPair(source, target, joint=False)


def sample(corpus: StagedCorpus, config: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield kept pairs, spread evenly over each corpus, as many of each as its weight asks for.

    That are all pairs where none weighs less than another and the limits allow it.
    """
    kept = corpus.count_pairs()
    wanted = _sizes(corpus, kept, config)
    seen = [0] * len(kept)
    for piece in corpus.texts.pieces():
        here = np.flatnonzero(
            np.array(corpus.verdicts[piece.pairs.start : piece.pairs.stop]) == Verdict.KEPT
        )
        number, total = piece.corpus, max(kept[piece.corpus], 1)
        places = seen[number] + np.arange(len(here) + 1)
        seen[number] += len(here)
        steps = np.diff(places * wanted[number] // total)
        chosen = here[steps > 0]
        if len(chosen):
            sources, targets, *_ = corpus.texts.read(piece)
            for i in chosen:
                yield sources[i], targets[i]


def _sizes(corpus: StagedCorpus, kept: Sequence[int], config: DataConfig) -> list[int]:
    """How many pairs of each corpus the vocabulary is learned from, of those that are kept."""
    characters, staged = np.zeros(len(kept)), np.zeros(len(kept))
    for piece in corpus.texts.pieces():
        of_sides = [end - begin for begin, end in piece.texts[:2]]  # bytes, which are at least
        size = sum(of_sides) if config.joint_vocabulary else max(of_sides)
        characters[piece.corpus] += size
        staged[piece.corpus] += len(piece.pairs)
    per_pair = characters / np.maximum(staged, 1)
    weights = np.array([paths.weight for paths in corpus.paths])
    wanted = np.array(kept) * weights / weights.max()
    scale = min(
        1.0,
        config.vocab_sample_pairs / max(wanted.sum(), 1),
        config.vocab_sample_characters / max((wanted * per_pair).sum(), 1),
    )
    return [int(np.ceil(size * scale)) for size in wanted]
