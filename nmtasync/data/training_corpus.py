"""The corpus of RUN as training reads it."""

from __future__ import annotations

from nmtasync.config.schema import Config
from nmtasync.data.shards import ParallelShards
from nmtasync.data.subword_sampling import SubwordSampler
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.run_directory import RunDirectory


def open_training_corpus(run: RunDirectory, config: Config) -> ParallelShards:
    """Open the corpus that is trained on, segmented anew if the configuration asks for it.

    Raises:
        UserError: A file is missing or damaged.
    """
    alphas = config.data.source_subword_alpha, config.data.target_subword_alpha
    sampler = None
    if alphas != (None, None):
        sampler = SubwordSampler(VocabularyPair.load(run.vocab), alphas)
    return ParallelShards.open(run.data / "train", sampler)
