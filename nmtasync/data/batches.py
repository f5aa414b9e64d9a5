"""Mini-batches: which sentences go together, and their padded tensors.

Shapes: B sentences of a batch, S longest source and T longest target in pieces, EOS counted,
L links between their pieces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import BOS, EOS, PAD

Int64s = npt.NDArray[np.int64]

_WINDOW_PAIRS = 1_000_000


@dataclass(frozen=True)
class Alignment:
    """Which source pieces a batch's target pieces are linked to.

    Attributes:
        links: Where they meet in a tensor [B, T, S], read row by row: [L].
        shares: What part of its target piece each link is: 1 / the number of its links: [L].
    """

    links: Tensor
    shares: Tensor

    def to(self, device: torch.device | str) -> Alignment:
        """Copy the tensors to a device, without waiting for it."""
        return Alignment(
            self.links.to(device, non_blocking=True), self.shares.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Batch:
    """Padded sentence pairs.

    Attributes:
        source: Ids, EOS last, then PAD: [B, S].
        source_mask: True where `source` is no padding: [B, S].
        target_input: What the decoder reads: BOS first, then the sentence, then PAD: [B, T].
        target: What the decoder shall predict: the sentence, EOS, then PAD: [B, T].
        real_targets: Where `target`, read row by row, is no padding: [`target_words`]. Made here,
            because a device that looks for it would make the host wait for the result's size.
        source_words: Source tokens, EOS counted, padding not.
        target_words: Target tokens, EOS counted, padding not.
        alignment: Of its pieces, if it was asked for.
    """

    source: Tensor
    source_mask: Tensor
    target_input: Tensor
    target: Tensor
    real_targets: Tensor
    source_words: int
    target_words: int
    alignment: Alignment | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Copy the tensors to a device, without waiting for it."""
        copies: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        alignment = self.alignment and self.alignment.to(device)
        return dataclasses.replace(self, **copies, alignment=alignment)


def plan_epoch(
    source_lengths: npt.NDArray[Any],
    target_lengths: npt.NDArray[Any],
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
) -> list[Int64s]:
    """Cut an epoch into mini-batches of similar lengths, in random order.

    Each sentence is in exactly one batch. The plan depends on the arguments alone. Sentences are
    sorted by the target's length, those of the same by the source's, rising and falling in turn:
    a batch that reaches from one target length into the next then has similar sources, too.

    Args:
        source_lengths: Pieces of each source sentence, without EOS: [N].
        target_lengths: The same of the target side: [N].
        batch_tokens: Most tokens of a batch: its sentences times the longest side of any of
            them, EOS counted. A pair that is longer alone makes a batch of its own.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        The sentences' ids of each batch.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(source_lengths))
    batches: list[Int64s] = []
    for start in range(0, len(order), _WINDOW_PAIRS):
        window = order[start : start + _WINDOW_PAIRS]
        source, target = source_lengths[window].astype(np.int64), target_lengths[window]
        window = window[np.lexsort((np.where(target % 2, -source, source), target))]
        widths = np.maximum(source_lengths[window], target_lengths[window]).astype(np.int64) + 1
        batches += np.split(window, _cuts(widths, batch_tokens))
    return [batches[i] for i in rng.permutation(len(batches))]


def _cuts(widths: Int64s, batch_tokens: int) -> list[int]:
    """Cut sentences, in the given order, into the longest runs that hold the budget."""
    cuts: list[int] = []
    counts = np.arange(1, min(batch_tokens, len(widths)) + 1)
    start = 0
    while start < len(widths):
        most = max(1, batch_tokens // int(widths[start]))
        widest = np.maximum.accumulate(widths[start : start + most])
        tokens = widest * counts[: len(widest)]
        start += max(1, int(np.searchsorted(tokens, batch_tokens, side="right")))
        cuts.append(start)
    return cuts[:-1]


def plan_corpus(corpus: ParallelShards, config: Config, epoch: int = 0) -> list[Int64s]:
    """Make the batches of an epoch of a corpus as a configuration has them; as of `plan_epoch`."""
    return plan_epoch(
        corpus.source_lengths,
        corpus.target_lengths,
        batch_tokens=config.data.batch_tokens,
        seed=config.training.seed,
        epoch=epoch,
    )


def mean_target_words(corpus: ParallelShards, plan: Sequence[Int64s]) -> float:
    """The target words of a mean mini-batch of an epoch, end of sentence counted."""
    return (int(corpus.target_lengths.sum()) + len(corpus)) / len(plan)


def collate(
    shards: ParallelShards,
    ids: npt.NDArray[Any] | Sequence[int],
    *,
    aligned: bool = False,
    longest: tuple[int, int] | None = None,
) -> Batch:
    """Gather sentences into padded tensors.

    Args:
        shards: The corpus.
        ids: Which sentences: [B].
        aligned: Whether to add their alignment, which the corpus must have.
        longest: The pieces of source and target, EOS not counted, after which a sentence is cut;
            not of aligned ones.
    """
    assert longest is None or not aligned
    most = longest or (None, None)
    rows = np.asarray(ids, dtype=np.int64)
    source, source_words = _gather(shards.source_tokens, shards.source_offsets, rows, most[0])
    target, target_words = _gather(shards.target_tokens, shards.target_offsets, rows, most[1])
    target_input = np.empty_like(target)
    target_input[:, 0] = BOS
    target_input[:, 1:] = np.where(target[:, :-1] == EOS, PAD, target[:, :-1])
    source_tensor = torch.from_numpy(source)
    return Batch(
        source_tensor,
        source_tensor != PAD,
        torch.from_numpy(target_input),
        torch.from_numpy(target),
        torch.from_numpy(np.flatnonzero(target != PAD)),
        source_words,
        target_words,
        _gather_links(shards, rows, target.shape[1], source.shape[1]) if aligned else None,
    )


def _gather_links(
    shards: ParallelShards, rows: Int64s, target_length: int, source_length: int
) -> Alignment:
    """Place the links of sentences in a tensor of the batch."""
    assert shards.alignment is not None
    stored, offsets = shards.alignment
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    before = np.cumsum(counts) - counts
    links = stored[np.arange(counts.sum()) + np.repeat(starts - before, counts)]
    sentences = np.repeat(np.arange(len(rows)), counts)
    targets = sentences * target_length + links["target"]
    shares = 1 / np.bincount(targets)[targets]
    return Alignment(
        torch.from_numpy(targets * source_length + links["source"]),
        torch.from_numpy(shares.astype(np.float32)),
    )


def _gather(
    tokens: npt.NDArray[Any], offsets: npt.NDArray[Any], rows: Int64s, most: int | None
) -> tuple[Int64s, int]:
    """Copy sentences, at most so much of each, into a padded matrix, EOS after each, and count
    their tokens with EOS."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    if most is not None:
        lengths = np.minimum(lengths, most)
    columns = np.arange(int(lengths.max()) + 1)
    real = columns < lengths[:, None]
    matrix = np.where(columns == lengths[:, None], np.int64(EOS), np.int64(PAD))
    matrix[real] = tokens[(starts[:, None] + columns)[real]]
    return matrix, int(lengths.sum()) + len(rows)
