"""What training minimises: the smoothed loss and, on request, that of guided alignment.

Shapes: B sentences, S source pieces, T target pieces, D dimension.
"""

from __future__ import annotations

from torch import Tensor

from nmtasync.config.schema import TrainingConfig
from nmtasync.data.batches import Batch
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.models.guided_alignment import alignment_loss
from nmtasync.models.loss import loss_sums
from nmtasync.models.sequence_to_sequence import SequenceToSequence


def refuse_without_alignments(corpus: ParallelShards, config: TrainingConfig) -> None:
    """Refuse guided alignment where nothing is aligned.

    Raises:
        UserError: The corpus has no alignment, and the config needs one.
    """
    if config.guides_alignment and corpus.alignment is None:
        raise UserError(
            f"is {config.guided_alignment_weight}, but {corpus.directory} has no alignments",
            where="training.guided_alignment_weight",
            remedy="preprocess with --alignments, or set it to 'none'",
        )


def run_network(
    model: SequenceToSequence, batch: Batch, config: TrainingConfig
) -> tuple[Tensor, Tensor | None]:
    """Compute what the losses are made of.

    Args:
        model: The network.
        batch: On its device.
        config: Whether alignment is guided, and that of which layer.

    Returns:
        The decoder's outputs [B, T, D] and, if alignment is guided, the logarithms of its
        attention's weights [B, T, S].
    """
    if not config.guides_alignment:
        return model(batch.source, batch.source_mask, batch.target_input), None
    encoded = model.encode(batch.source, batch.source_mask)
    return model.decode_with_attention(encoded, batch.target_input, config.guided_alignment_layer)


def sum_losses(
    model: SequenceToSequence,
    batch: Batch,
    outputs: Tensor,
    log_weights: Tensor | None,
    config: TrainingConfig,
) -> tuple[Tensor, Tensor]:
    """Sum the losses over the real target pieces of a batch.

    Args:
        model: The network.
        batch: With its alignment, if that is guided.
        outputs: What `run_network` returned.
        log_weights: Likewise.
        config: Label smoothing, and how much guided alignment weighs.

    Returns:
        What is to be minimised, with a gradient, and the cross-entropy, without one: two scalars
        as those of `loss_sums`.
    """
    loss, cross_entropy = loss_sums(
        model, outputs, batch.target, batch.real_targets, config.label_smoothing
    )
    if log_weights is not None:
        assert batch.alignment is not None and config.guided_alignment_weight is not None
        guided = alignment_loss(log_weights, batch.alignment.links, batch.alignment.shares)
        loss = loss + config.guided_alignment_weight * guided
    return loss, cross_entropy
