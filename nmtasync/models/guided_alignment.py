"""Guided alignment: a loss that teaches attention to look where words are aligned.

Source: Chen et al. 2016, "Guided Alignment Training for Topic-Aware Neural Machine Translation"
(arXiv 1607.01628), of its losses the cross-entropy; for the Transformer: Garg et al. 2019, "Jointly
Learning to Align and Translate with Transformer Models", section 4.2.
Shapes: B sentences, S source pieces, T target pieces, L links between them.
"""

from __future__ import annotations

from torch import Tensor


def alignment_loss(log_weights: Tensor, links: Tensor, shares: Tensor) -> Tensor:
    """Sum the cross-entropy of attention weights over the target pieces that have links.

    Args:
        log_weights: The logarithms of the weights of the source pieces [B, T, S].
        links: Where linked pieces meet in `log_weights`, read row by row [L].
        shares: What part of its target piece each link is; those of a piece sum to one [L].

    Returns:
        A scalar in nats, of the type of `log_weights`.
    """
    linked = log_weights.flatten().index_select(0, links)
    return -(shares.to(linked.dtype) * linked).sum()
