"""Word alignments out of attention.

Source: Garg et al. 2019, "Jointly Learning to Align and Translate with Transformer Models": each
target word is linked to the source word that it attends to the most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nmtasync.data.alignment import Links


def link_words(weights: Tensor, source_words: Sequence[int], target_words: Sequence[int]) -> Links:
    """Link each target word to a source word.

    A word's weights are the sum over its pieces in the source, and the mean over those in the
    target. The end of the source is no word; a target that has one word at least gets a link for
    each of its words.

    Args:
        weights: With which each target piece attends to each source piece, at least as many as
            `target_words` and `source_words` name [T, S].
        source_words: The word that each source piece is of, the end of sentence left out.
        target_words: The word that each target piece is of, likewise.

    Returns:
        Links of words, by source, then target.
    """
    if not source_words or not target_words:
        return []
    weights = weights[: len(target_words), : len(source_words)].double().cpu()
    by_word = weights.new_zeros(len(target_words), max(source_words) + 1)
    by_word.index_add_(1, torch.tensor(source_words), weights)
    words = weights.new_zeros(max(target_words) + 1, by_word.shape[1])
    words.index_add_(0, torch.tensor(target_words), by_word)
    # over a target word's pieces these are sums, which are greatest where means are
    chosen = words.argmax(1).tolist()
    return sorted((chosen[word], word) for word in set(target_words))


def pharaoh(links: Links) -> str:
    """Write links as "0-0 1-2", which `parse_alignment` reads."""
    return " ".join(f"{source}-{target}" for source, target in links)
