"""The pieces of another program's network, numbered as ours.

Ours begin with PAD, UNK, BOS and EOS; theirs have what they have of these anywhere. What they lack
is added: it is never predicted (`SILENT`), and its embedding is zero.
Shapes: U pieces of theirs, V of ours, D dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nmtasync.data.vocabulary import Vocabulary
from nmtasync.interchange.silent import SILENT
from nmtasync.preprocessing.learn_vocabulary import CONTROL_NAMES, renumbered, text_pieces


@dataclass(frozen=True)
class Control:
    """Which of their pieces are control pieces.

    Attributes:
        pad: Padding, if it has a number.
        unk: Unknown text.
        bos: What the decoder begins with, if it has a number.
        eos: The end of sentence.
        bos_is_silent: Whether that is never predicted, whatever its row says.
        dropped: Pieces that are none here.
    """

    pad: int | None
    unk: int
    bos: int | None
    eos: int
    bos_is_silent: bool = False
    dropped: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Renumbering:
    """Where the pieces of ours come from.

    Attributes:
        rows: Of each its number among theirs; None of one that they lack.
        silent: Which are never predicted.
    """

    rows: list[int | None]
    silent: list[bool]

    def take(self, matrix: Tensor) -> Tensor:
        """Bring a matrix in our order: [U, D] to [V, D]."""
        taken = matrix[torch.tensor([row or 0 for row in self.rows])]
        taken[torch.tensor([row is None for row in self.rows])] = 0.0
        return taken

    def take_bias(self, bias: Tensor) -> Tensor:
        """Bring the output's bias in our order: [U] to [V]."""
        taken = bias[torch.tensor([row or 0 for row in self.rows])]
        taken[torch.tensor(self.silent)] = SILENT
        return taken


_TAG = re.compile(r"\u2581?(>>[^<>\s]+<<)")
"""Of a language, before the text, as in multilingual models of OPUS-MT."""


def tag_as_word(piece: str) -> str:
    """Spell a tag as SentencePiece sees it, with the space before it; leave other pieces alone.

    So the tag and that space are one piece, as other programs take tags off before text is cut.
    """
    tag = _TAG.fullmatch(piece)
    return f"\u2581{tag[1]}" if tag else piece


def word_as_tag(piece: str) -> str:
    """Undo `tag_as_word`."""
    tag = _TAG.fullmatch(piece)
    return tag[1] if tag else piece


def by_number(numbers: Mapping[str, int]) -> list[str]:
    """List pieces by their numbers.

    Raises:
        ValueError: The numbers are not those from 0 on, or there are none.
    """
    pieces = sorted(numbers, key=lambda piece: numbers[piece])
    if not pieces or [numbers[piece] for piece in pieces] != list(range(len(pieces))):
        raise ValueError("the numbers of pieces are not those from 0 on")
    return pieces


def renumber(
    tokens: Sequence[str], control: Control, models: Sequence[bytes]
) -> tuple[list[Vocabulary], Renumbering]:
    """Number pieces as ours.

    A piece that text is cut into and that the network lacks is unknown text to it, and here, too.
    Tags of languages (">>fra<<") are one piece each.

    Args:
        tokens: Their pieces, by number.
        control: Which are control pieces.
        models: The SentencePiece models that cut text into these pieces.

    Returns:
        A vocabulary for each model, all with the same pieces, and where these come from.

    Raises:
        ValueError: The pieces are none, or not those of the models.
    """
    cut = dict.fromkeys(piece for model in models for piece in text_pieces(model))
    tokens = [token if token in cut else tag_as_word(token) for token in tokens]
    if len(set(tokens)) < len(tokens):
        raise ValueError("a tag of a language is there twice")
    tags = {token for token in tokens if word_as_tag(token) != token}
    first = [control.pad, control.unk, control.bos, control.eos]
    named = {row for row in first if row is not None} | control.dropped
    if any(not 0 <= row < len(tokens) for row in named):
        raise ValueError("a control piece has a number that is none")
    others = [row for row in range(len(tokens)) if row not in named]
    known = {tokens[row] for row in others}
    if taken := known & set(CONTROL_NAMES):
        raise ValueError(f"{sorted(taken)[0]} is no control piece in it")
    unknown = [piece for piece in cut if piece not in known]
    pieces = [*CONTROL_NAMES, *(tokens[row] for row in others), *unknown]
    rows = [*first, *others, *[control.unk] * len(unknown)]
    silent = [row is None for row in rows]
    silent[2] = silent[2] or control.bos_is_silent
    silent[4 + len(others) :] = [True] * len(unknown)
    return [renumbered(model, pieces, tags) for model in models], Renumbering(rows, silent)
