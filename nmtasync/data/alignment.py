"""Word alignments: read from their usual format, and carried over from words to pieces.

A link (i, j) says that source i and target j translate each other, both counted from 0.

Alignments stay sparse: the links of pieces lie beside the tokens, and a batch carries places in its
tensor [B, T, S] of sentences, target and source pieces, not the tensor; without guided alignment
nobody reads them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from nmtasync.errors import UserError

Links = list[tuple[int, int]]

MAX_PIECES = (1 << 16) - 1
"""The longest side, in pieces, whose links shards have room for."""

_LINK = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_WORD = re.compile(r"\S+")


class Segmented(NamedTuple):
    """A line in pieces, and where in the line they come from.

    Attributes:
        ids: The pieces' ids.
        spans: Of each piece the bytes of the line, in UTF-8, that it stands for: the first, and
            the one after the last.
    """

    ids: list[int]
    spans: list[tuple[int, int]]

    def words(self, line: str) -> list[int]:
        """Compute for each piece the number of the word of the line that it is of.

        That is the word of its last byte or, where that is a space, the word after it. (The first
        byte will not do: a piece begins with the space before it, and also with what stood there
        and was normalised away.) A piece that stands for no bytes, as the first of those that
        spell a character do, is of the word where it is.
        """
        ends, position, seen = [], 0, 0
        for word in _WORD.finditer(line):
            position += len(line[seen : word.end()].encode())
            seen = word.end()
            ends.append(position)
        last = len(ends) - 1
        return [min(bisect_right(ends, max(begin, end - 1)), last) for begin, end in self.spans]


def parse_alignment(line: str, source: str, target: str, where: object) -> Links:
    """Read the links of a sentence pair, written as "0-0 1-2 2-1" (the Pharaoh format).

    Args:
        line: The links, between spaces.
        source: The source sentence; its words are what stands between its spaces.
        target: The target sentence, likewise.
        where: What an error names as its place.

    Raises:
        UserError: A link has another form, or names a word that there is not.
    """
    num_words = len(source.split()), len(target.split())
    links = []
    for text in line.split():
        match = _LINK.fullmatch(text)
        if match is None:
            raise UserError(
                f"{text!r} is no link of a source and a target word",
                where=where,
                remedy="write links as 0-0 1-2, with nothing but spaces between them",
            )
        link = int(match[1]), int(match[2])
        if link[0] >= num_words[0] or link[1] >= num_words[1]:
            raise UserError(
                f"the link {text} leads out of a pair of {num_words[0]} and {num_words[1]} words",
                where=where,
                remedy="count words from 0, source first, in the lines as they are in --train",
            )
        links.append(link)
    return links


def align_pieces(links: Links, source_words: Sequence[int], target_words: Sequence[int]) -> Links:
    """Link all pieces of linked words to each other, and the ends of both sentences.

    Args:
        links: Of words.
        source_words: The word that each source piece is of.
        target_words: The word that each target piece is of.

    Returns:
        The links of pieces, each once, in order of target, then source.
    """
    pieces: dict[int, list[int]] = defaultdict(list)
    for piece, word in enumerate(source_words):
        pieces[word].append(piece)
    partners: dict[int, set[int]] = defaultdict(set)
    for source, target in links:
        partners[target].update(pieces[source])
    aligned = [(s, t) for t, word in enumerate(target_words) for s in sorted(partners[word])]
    return [*aligned, (len(source_words), len(target_words))]
