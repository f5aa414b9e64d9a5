"""Word alignments out of attention, on weights that are written down."""

from __future__ import annotations

import torch

from nmtasync.evaluation.alignment import link_words, pharaoh


def test_weights_are_summed_over_source_pieces_and_averaged_over_target_pieces() -> None:
    """Three source words of 1, 2 and 1 pieces, two target words of 1 and 2; then both ends."""
    weights = torch.tensor(
        [
            [0.35, 0.20, 0.20, 0.05, 0.20],  # no piece of word 1 has the most, together they have
            [0.10, 0.00, 0.10, 0.30, 0.50],  # by itself it would be linked to word 2
            [0.90, 0.00, 0.00, 0.05, 0.05],
            [0.00, 0.00, 0.00, 0.00, 1.00],
        ]
    )
    assert link_words(weights, [0, 1, 1, 2], [0, 1, 1]) == [(0, 1), (1, 0)]
    assert pharaoh([(0, 1), (1, 0)]) == "0-1 1-0"


def test_ends_and_padding_are_no_words() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert link_words(weights, [0, 1], [0]) == [(1, 0)]


def test_what_has_no_words_has_no_links() -> None:
    weights = torch.full((3, 3), 1 / 3)
    assert link_words(weights, [], [0]) == link_words(weights, [0], []) == []
    assert pharaoh([]) == ""
