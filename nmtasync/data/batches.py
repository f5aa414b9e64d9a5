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

from nmtasync.data.shards import ParallelShards, Sentences
from nmtasync.data.vocabulary import BOS, EOS

Int64s = npt.NDArray[np.int64]


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

    @property
    def padding(self) -> int:
        """Count what is padding, on both sides together."""
        words = self.source_words + self.target_words
        return self.source.numel() + self.target.numel() - words

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
    """Cut sentences into mini-batches of similar lengths, in random order: all of them together.

    Each sentence is in exactly one batch. The plan depends on the arguments alone. A corpus that
    is trained on is planned by `EpochPlans`.

    Args:
        source_lengths: Pieces of each source sentence, without EOS: [N].
        target_lengths: The same of the target side: [N].
        batch_tokens: As of `cut_batches`.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        The sentences' ids of each batch.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(source_lengths))
    lengths = source_lengths[order], target_lengths[order]
    return cut_batches(order, *lengths, batch_tokens, rng)


def cut_batches(
    ids: Int64s,
    source_lengths: npt.NDArray[Any],
    target_lengths: npt.NDArray[Any],
    batch_tokens: int,
    rng: np.random.Generator,
) -> list[Int64s]:
    """Cut sentences, given in random order, into mini-batches of similar lengths.

    They are sorted by the target's length, those of the same by the source's, rising and falling
    in turn: a batch that reaches from one target length into the next then has similar sources,
    too.

    Args:
        ids: Which sentences: [N].
        source_lengths: Pieces of the source of each, without EOS: [N].
        target_lengths: The same of the target side: [N].
        batch_tokens: Most tokens of a batch: its sentences times the longest side of any of
            them, EOS counted. A pair that is longer alone makes a batch of its own.
        rng: Draws the order of the batches.

    Returns:
        The ids of each batch.
    """
    source, target = source_lengths.astype(np.int64), target_lengths.astype(np.int64)
    order = _sorted_by((target, np.where(target % 2, -source, source)))
    widths = np.maximum(source, target)[order] + 1
    batches = np.split(ids[order], _cuts(widths, batch_tokens)) if len(ids) else []
    return [batches[i] for i in rng.permutation(len(batches))]


def _sorted_by(keys: tuple[Int64s, Int64s]) -> Int64s:
    """Return the order by the first key, then the second, then the place.

    All three are put into one number where they fit, which sorts several times as fast as
    `np.lexsort`.
    """
    first, second = (key - key.min(initial=0) for key in keys)
    second_bits, place_bits = (int(n).bit_length() for n in (second.max(initial=0), len(first)))
    if int(first.max(initial=0)).bit_length() + second_bits + place_bits > 63:
        order: Int64s = np.lexsort(keys[::-1])
        return order
    numbers: Int64s = (((first << second_bits) | second) << place_bits) | np.arange(len(first))
    numbers.sort()
    return numbers & ((1 << place_bits) - 1)


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


def collate(
    shards: ParallelShards,
    ids: npt.NDArray[Any] | Sequence[int],
    *,
    seed: int = 0,
    aligned: bool = False,
    longest: tuple[int, int] | None = None,
) -> Batch:
    """Gather sentences into padded tensors.

    Args:
        shards: The corpus.
        ids: Which sentences: [B].
        seed: As of `ParallelShards.sentences`.
        aligned: Whether to add their alignment, which the corpus must have.
        longest: The pieces of source and target, EOS not counted, after which a sentence is cut;
            not of aligned ones.
    """
    assert longest is None or not aligned
    most = longest or (None, None)
    rows = np.asarray(ids, dtype=np.int64)
    source, target = map(_gather, shards.sentences(rows, seed), most)
    target_input = np.empty_like(target.matrix)
    target_input[:, 0] = BOS
    target_input[:, 1:] = target.stored[:, :-1]
    lengths = target.matrix.shape[1], source.matrix.shape[1]
    return Batch(
        torch.from_numpy(source.matrix),
        torch.from_numpy(source.real),
        torch.from_numpy(target_input),
        torch.from_numpy(target.matrix),
        torch.from_numpy(np.flatnonzero(target.real)),
        source.words,
        target.words,
        _gather_links(shards, rows, *lengths) if aligned else None,
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


@dataclass(frozen=True)
class _Side:
    """A side of a batch.

    Attributes:
        stored: The pieces without EOS, then zeros, in the type that they are stored in: [B, W].
        matrix: The pieces, EOS, then PAD: [B, W].
        real: Where `matrix` is no padding: [B, W].
        words: Its tokens, EOS counted, padding not.
    """

    stored: npt.NDArray[Any]
    matrix: Int64s
    real: npt.NDArray[np.bool_]
    words: int


def _gather(sentences: Sentences, most: int | None) -> _Side:
    """Copy sentences, at most so much of each, into a padded matrix, EOS after each."""
    # plain arrays: each operation on a memory map costs as much again for its Python class
    tokens, offsets = np.asarray(sentences.tokens), np.asarray(sentences.offsets)
    rows = sentences.rows
    starts = offsets.take(rows)
    lengths = offsets.take(rows + 1) - starts
    if most is not None:
        lengths = np.minimum(lengths, most)
    width = int(lengths.max()) + 1
    columns = np.arange(width)
    real = columns < lengths[:, None]
    if len(tokens):
        stored = tokens.take(starts[:, None] + columns, mode="clip")  # what follows is padding
        stored *= real
    else:
        stored = np.zeros(real.shape, tokens.dtype)
    matrix = stored.astype(np.int64)
    ends = np.arange(len(rows)) * width + lengths
    matrix.reshape(-1)[ends] = EOS
    real.reshape(-1)[ends] = True
    return _Side(stored, matrix, real, int(lengths.sum()) + len(rows))
