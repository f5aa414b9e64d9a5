"""RUN/logs/bad-batches: batches whose gradients were not finite, a file each, to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.run_directory import RunDirectory, explain_write_errors, write_json
from nmtasync.worker.bad_batches import BadBatch

MAX_FILES = 20
"""Those of earlier calls give way to new ones; one call keeps the first that it comes upon."""


class BadBatchFiles:
    """Writes the files.

    Args:
        run: Whose `logs` directory to write to, and whose training corpus the batches are of.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.directory = run.logs / "bad-batches"
        self._num_written = 0

    def keep(self, batches: Sequence[BadBatch], updates: int) -> str:
        """Write batches as `write` does; return what there is to say of it, or nothing."""
        written = [self.write(batch, updates) for batch in batches]
        files = [str(path) for path in written if path is not None]
        return f"; kept to look at: {', '.join(files)}" if files else ""

    def write(self, batch: BadBatch, updates: int) -> Path | None:
        """Write a batch, with its text.

        Args:
            batch: Which.
            updates: Those that the shards had made when its gradient came.

        Returns:
            The file; None if there are enough of them.
        """
        if self._num_written >= MAX_FILES:
            return None
        path = self.directory / f"update-{updates}-batch-{batch.epoch}-{batch.index}.json"
        content = {
            "updates": updates,
            "worker": batch.worker,
            "epoch": batch.epoch,
            "batch": batch.index,
            "loss": batch.loss if math.isfinite(batch.loss) else str(batch.loss),
            "parameters": batch.parameters,
            "sentences": list(self._sentences(batch)),
        }
        with explain_write_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            earlier = sorted(self.directory.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in earlier[: max(0, len(earlier) + 1 - MAX_FILES)]:
                file.unlink()
            write_json(path, content)
        self._num_written += 1
        return path

    def _sentences(self, batch: BadBatch) -> Iterator[dict[str, Any]]:
        """Decode the sentences: RUN keeps the pieces of the training corpus, not its text."""
        corpus = ParallelShards.open(self.run.data / "train")
        vocabularies = VocabularyPair.load(self.run.vocab)
        sides = [
            (side, vocabulary, vocabulary.pieces(), tokens, offsets)
            for side, vocabulary, tokens, offsets in (
                ("source", vocabularies.source, corpus.source_tokens, corpus.source_offsets),
                ("target", vocabularies.target, corpus.target_tokens, corpus.target_offsets),
            )
        ]
        for number in batch.sentences:
            sentence: dict[str, Any] = {"number": number}
            for side, vocabulary, pieces, tokens, offsets in sides:
                ids = [int(piece) for piece in tokens[offsets[number] : offsets[number + 1]]]
                sentence[side] = vocabulary.decode([ids])[0]
                sentence[f"{side}_pieces"] = " ".join(pieces[piece] for piece in ids)
            yield sentence
