"""What a decoder's layers remember of the pieces generated so far, kept in place.

Shapes: N sentences with K hypotheses each, H heads, E width of a head, D dimension, C cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

_FIRST_CELLS = 64


class Past(ABC):
    """What one layer remembers; it changes in place."""

    @abstractmethod
    def reorder(self, rows: Tensor, sentences: Tensor) -> None:
        """Select and repeat hypotheses.

        Args:
            rows: As of `SequenceToSequence.reorder` [N', K'].
            sentences: To which old sentence each belongs [N'].
        """


class KeysValuesPast(Past):
    """Keys and values of self-attention, in cells that the hypotheses of a sentence share.

    Each piece that a hypothesis reads takes a cell of its sentence for good. Hypotheses that go on
    from another see its cells, so nothing is copied when a search reorders them; which cells
    each of them sees is the same in all layers and kept beside, in `Sight`.
    """

    def __init__(self) -> None:
        self._cells: list[Tensor] = []  # keys and values, each [N, H, room, E]
        self._num_cells = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Give the hypotheses' new pieces [N, H, K, E] cells; return those of all [N, H, C, E]."""
        start, end = self._num_cells, self._num_cells + keys.shape[2]
        if not self._cells or self._cells[0].shape[2] < end:
            self._cells = self._larger(keys, max(_FIRST_CELLS, 2 * end))
        for cells, new in zip(self._cells, (keys, values), strict=True):
            cells[:, :, start:end] = new
        self._num_cells = end
        all_keys, all_values = (cells[:, :, :end] for cells in self._cells)
        return all_keys, all_values

    def _larger(self, like: Tensor, room: int) -> list[Tensor]:
        sentences, heads, _, width = like.shape
        larger = [like.new_empty(sentences, heads, room, width) for _ in range(2)]
        for cells, old in zip(larger, self._cells, strict=False):  # none at first
            cells[:, :, : self._num_cells] = old[:, :, : self._num_cells]
        return larger

    def reorder(self, rows: Tensor, sentences: Tensor) -> None:
        """Keep sentences; hypotheses stay where they are."""
        for cells in self._cells:
            keep_sentences(cells[:, :, : self._num_cells], sentences)
        self._cells = [cells[: len(sentences)] for cells in self._cells]


class RecurrentPast(Past):
    """The cells of a recurrence, one vector for each hypothesis.

    Attributes:
        cells: After the last piece [N, K, D]; None before the first.
    """

    def __init__(self) -> None:
        self.cells: Tensor | None = None

    def reorder(self, rows: Tensor, sentences: Tensor) -> None:
        """Select and repeat hypotheses."""
        if self.cells is not None:
            self.cells = self.cells.flatten(0, 1)[rows]


class Sight:
    """Which cells of `KeysValuesPast` each hypothesis sees.

    Attributes:
        bias: What is added to attention logits: 0, or minus infinity where it does not
            [N, K, C].
        position: Where the newest pieces stand, counted from 0.
    """

    def __init__(self, sentences: int, like: Tensor) -> None:
        self.bias = like.new_zeros(sentences, 1, 0)
        self.position = -1

    def append(self) -> None:
        """Let each hypothesis see a new cell of its own, that of its next piece."""
        sentences, hypotheses, _ = self.bias.shape
        own = self.bias.new_full((hypotheses, hypotheses), float("-inf"))
        own.fill_diagonal_(0.0)
        self.bias = torch.cat((self.bias, own.expand(sentences, -1, -1)), dim=2)
        self.position += 1

    def reorder(self, rows: Tensor) -> None:
        """Select and repeat hypotheses."""
        self.bias = self.bias.flatten(0, 1)[rows]


def keep_sentences(x: Tensor, sentences: Tensor) -> Tensor:
    """Move sentences to the front, in place, and return them.

    Args:
        x: Something of each of N sentences [N, ...].
        sentences: The old places of those that are kept, in their new order [N'].
    """
    moved = (sentences != torch.arange(len(sentences), device=x.device)).nonzero().squeeze(1)
    if len(moved):
        x.index_copy_(0, moved, x.index_select(0, sentences[moved]))
    return x[: len(sentences)]
