"""Validation: cross-entropy and BLEU of one set of parameters on the validation corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from nmtasync.checkpoints.history import Validation
from nmtasync.checkpoints.store import Snapshot
from nmtasync.config.schema import Config
from nmtasync.data.batches import collate, plan_epoch
from nmtasync.data.corpus import read_lines
from nmtasync.data.shards import ParallelShards
from nmtasync.data.staging import SOURCE_TEXT, TARGET_TEXT
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.evaluation.metrics import bleu
from nmtasync.evaluation.translate import Translator
from nmtasync.models.loss import loss_sums
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.run_directory import RunDirectory


class Validator:
    """Measures a model on RUN's validation corpus.

    Args:
        run: Where the corpus lies.
        model: The model to measure; whoever calls sets its parameters.
        config: The experiment. Translation is greedy whatever `decoding.beam_size` says: it
            ranks checkpoints alike and takes a fraction of the time.
        device: Where the model lies.
    """

    def __init__(
        self, run: RunDirectory, model: SequenceToSequence, config: Config, device: str
    ) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.corpus = ParallelShards.open(run.data / "valid")
        self.sources = read_lines(run.data / "valid" / SOURCE_TEXT)
        self.references = read_lines(run.data / "valid" / TARGET_TEXT)
        self.vocabularies = VocabularyPair.load(run.vocab)

    def validate(
        self, snapshot: Snapshot, on_progress: Callable[[], None] = lambda: None
    ) -> Validation:
        """Measure what `training.validate_bleu` asks for.

        Args:
            snapshot: The moment whose `scored` parameters the model has now.
            on_progress: Is called after each batch.
        """
        return Validation(
            updates=snapshot.state.updates,
            time_seconds=snapshot.state.time_seconds,
            cross_entropy=self.cross_entropy(on_progress),
            bleu=self.bleu(on_progress) if self.config.training.validate_bleu else None,
        )

    @torch.no_grad()
    def cross_entropy(self, on_progress: Callable[[], None] = lambda: None) -> float:
        """Cross-entropy per target word, in nats, without label smoothing."""
        self.model.eval()
        total, words = torch.zeros((), dtype=torch.float64), 0
        lengths = self.corpus.source_lengths, self.corpus.target_lengths
        batch_tokens = self.config.data.batch_tokens
        for sentences in plan_epoch(*lengths, batch_tokens=batch_tokens, seed=0, epoch=0):
            batch = collate(self.corpus, sentences).to(self.device)
            outputs = self.model(batch.source, batch.source_mask, batch.target_input)
            parts = outputs, batch.target, batch.real_targets
            _, cross_entropy = loss_sums(self.model, *parts, label_smoothing=0.0)
            total += cross_entropy.double().cpu()
            words += batch.target_words
            on_progress()
        return float(total) / max(words, 1)

    def bleu(self, on_progress: Callable[[], None]) -> float:
        """BLEU of greedy translations, from 0 to 100."""
        self.model.eval()
        greedy = dataclasses.replace(self.config.decoding, beam_size=1)
        translator = Translator(self.model, self.vocabularies, greedy, self.device)
        return bleu(
            translator.translate(self.sources, lambda done, total: on_progress()),
            self.references,
            self.config.data.target_language,
        )
