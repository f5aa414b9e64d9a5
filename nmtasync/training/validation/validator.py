"""Validation: cross-entropy and BLEU of one set of parameters on the validation corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from nmtasync.checkpoints.history import Validation
from nmtasync.checkpoints.store import Snapshot
from nmtasync.config.schema import Config
from nmtasync.data.batches import Int64s, collate, plan_epoch
from nmtasync.data.corpus import read_lines
from nmtasync.data.shards import SOURCE_TEXT, TARGET_TEXT, ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.evaluation.metrics import bleu
from nmtasync.evaluation.translate import Translator
from nmtasync.machine.memory import compute_in_parts
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
        tell: Shows a line.

    Attributes:
        longest: Pieces of the longest source and target that are trained on, where longer ones
            are cut: no model is trained for them, and they would need more memory than training.
    """

    def __init__(
        self,
        run: RunDirectory,
        model: SequenceToSequence,
        config: Config,
        device: str,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.corpus = ParallelShards.open(run.data / "valid")
        self.sources = read_lines(run.data / "valid" / SOURCE_TEXT)
        self.references = read_lines(run.data / "valid" / TARGET_TEXT)
        self.vocabularies = VocabularyPair.load(run.vocab)
        self.tell = tell
        self.longest = ParallelShards.open(run.data / "train").longest()
        self._split_told = False
        lengths = self.corpus.source_lengths, self.corpus.target_lengths
        self._lengths = [np.minimum(*pair) for pair in zip(lengths, self.longest, strict=True)]

    @torch.no_grad()
    def rehearse(self) -> None:
        """Try the batches that need the most memory: its lack shows now, and not hours later.

        On a CPU nobody refuses memory, so there the translation is left out, which takes long.
        """
        longer = self.corpus.source_lengths > self.longest[0]
        longer |= self.corpus.target_lengths > self.longest[1]
        if number := int(longer.sum()):
            source, target = self.longest
            self.tell(
                f"{number:,} validation pairs are longer than all that are trained on, and are cut "
                f"there: after {source:,} source or {target:,} target pieces"
            )
        self.model.eval()
        widths = np.maximum(*self._lengths)
        self._sum(max(self._plan(), key=lambda ids: len(ids) * int(widths[ids].max()) ** 2))
        if self.config.training.validate_bleu and torch.device(self.device).type != "cpu":
            longest = np.argsort(-self._lengths[0])[: self.config.decoding.batch_sentences]
            self._translate([self.sources[line] for line in longest])

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
        total, words = 0.0, 0
        for sentences in self._plan():
            cross_entropy, target_words = self._sum(sentences)
            total += cross_entropy
            words += target_words
            on_progress()
        return total / max(words, 1)

    def _plan(self) -> list[Int64s]:
        batch_tokens = self.config.data.tokens_per_batch
        return plan_epoch(*self._lengths, batch_tokens=batch_tokens, seed=0, epoch=0)

    def _sum(self, sentences: Int64s) -> tuple[float, int]:
        """Sum the cross-entropy of a batch; return it with its target words."""

        def compute(places: range) -> tuple[float, int]:
            ids = sentences[places.start : places.stop]
            batch = collate(self.corpus, ids, longest=self.longest).to(self.device)
            outputs = self.model(batch.source, batch.source_mask, batch.target_input)
            parts = outputs, batch.target, batch.real_targets
            _, cross_entropy = loss_sums(self.model, *parts, label_smoothing=0.0)
            return float(cross_entropy.double()), batch.target_words

        parts = compute_in_parts(len(sentences), compute, self._note_split)
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def _note_split(self) -> None:
        if not self._split_told:
            self.tell("validation has too little memory for a batch, and computes it in parts")
        self._split_told = True

    def bleu(self, on_progress: Callable[[], None]) -> float:
        """BLEU of greedy translations, from 0 to 100."""
        self.model.eval()
        translations = self._translate(self.sources, on_progress)
        return bleu(translations, self.references, self.config.data.target_language)

    def _translate(
        self, lines: Sequence[str], on_progress: Callable[[], None] = lambda: None
    ) -> list[str]:
        translator = Translator(
            self.model,
            self.vocabularies,
            dataclasses.replace(self.config.decoding, beam_size=1, sampling=False),
            self.device,
            on_split=self._note_split,
            max_pieces=self.longest[0],
        )
        return translator.translate(lines, lambda done, total: on_progress())
