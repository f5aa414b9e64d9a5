"""Label-smoothed cross-entropy that never holds all logits.

Shapes: B sentences, T target pieces, M real target pieces of a batch, C pieces of a chunk,
D dimension, V target vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nmtasync.models.sequence_to_sequence import PAD, SequenceToSequence

_CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""The most logits that are held at a time; smaller chunks read the weights too often."""


def loss_sums(
    model: SequenceToSequence,
    source: Tensor,
    source_mask: Tensor,
    target_input: Tensor,
    target: Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Sum the loss over the real target pieces of a batch.

    Args:
        model: The network.
        source: Source ids [B, S].
        source_mask: True where `source` is a real piece [B, S].
        target_input: Target ids, the beginning of sentence first [B, T].
        target: Target ids, the end of sentence last, padding after it [B, T].
        label_smoothing: Probability mass e that is spread over the vocabulary.

    Returns:
        The smoothed loss, (1 - e) * -log p(target) + e * mean over V of -log p, with a gradient,
        and the cross-entropy, -log p(target), without one: two scalars in float32 (or the
        model's type, if that is wider), in nats, summed.
    """
    outputs = model(source, source_mask, target_input)
    real = target != PAD
    embeddings = model.embeddings
    return smoothed_cross_entropy(
        outputs[real],
        embeddings.output_weight,
        embeddings.output_bias,
        target[real],
        label_smoothing,
    )


def smoothed_cross_entropy(
    outputs: Tensor, weight: Tensor, bias: Tensor, target: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Project outputs to the vocabulary and sum their loss.

    Args:
        outputs: The decoder's outputs at the real pieces [M, D].
        weight: Of the output projection [V, D].
        bias: Of the output projection [V].
        target: The ids that are right [M].
        label_smoothing: As in `loss_sums`.

    Returns:
        Smoothed loss and cross-entropy, as `loss_sums`.
    """
    inputs = (outputs, weight, bias)
    with_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in inputs)
    apply: Any = _SmoothedCrossEntropy.apply  # torch has no types for it
    smoothed, cross_entropy = apply(*inputs, target, label_smoothing, with_gradient)
    return smoothed, cross_entropy


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Output projection and loss in one, which computes its gradient while it has the logits.

    With q the smoothed target distribution (e / V everywhere, 1 - e more at the target) the
    gradient by the logits is softmax - q. It is never formed: exp(logits - max) takes part in
    the matrix products as it is, divided by its sums [C] on the narrow side; the target's share
    of q is a row of `weight` or `outputs`, and e / V is a rank-one term.
    """

    @staticmethod
    def forward(
        ctx: Any,
        outputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: Tensor,
        smoothing: float,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """Sum the loss chunk by chunk; arguments as in `smoothed_cross_entropy`."""
        size, vocabulary = outputs.shape[0], weight.shape[0]
        chunk_bytes = _CHUNK_BYTES.get(outputs.device.type, _CHUNK_BYTES["cuda"])
        most_rows = max(1, chunk_bytes // (vocabulary * weight.element_size()))
        chunks = max(1, math.ceil(size / most_rows))
        rows = max(1, math.ceil(size / chunks))  # of equal size, none a leftover
        weight_sum, bias_sum = weight.sum(0), bias.sum()
        cross_entropy = torch.zeros((), dtype=weight.dtype, device=weight.device)
        uniform = cross_entropy.clone()  # minus the mean over V of log p
        if with_gradient:
            by_outputs = torch.empty_like(outputs)
            spread = -smoothing / vocabulary  # the gradient's share that is the same everywhere
            by_weight = (spread * outputs.sum(0)).expand_as(weight).contiguous()
            by_bias = torch.full_like(bias, spread * size)
        for start in range(0, size, rows):
            part, right = outputs[start : start + rows], target[start : start + rows]
            logits = torch.addmm(bias, part, weight.t())
            right_logits = logits.gather(1, right[:, None]).squeeze(1)
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            normalizers = (sums.log() + highest).squeeze(1)
            cross_entropy += (normalizers - right_logits).sum()
            mean_logits = (part @ weight_sum + bias_sum) / vocabulary
            uniform += (normalizers - mean_logits).sum()
            if with_gradient:
                scaled = part / sums
                torch.mm(exponentials, weight, out=by_outputs[start : start + rows])
                by_outputs[start : start + rows] /= sums
                by_weight.addmm_(exponentials.t(), scaled)
                by_bias += sums.reciprocal().squeeze(1) @ exponentials
        if with_gradient:
            by_outputs -= (1.0 - smoothing) * weight[target] - spread * weight_sum
            by_weight.index_add_(0, target, outputs, alpha=smoothing - 1.0)
            ones = torch.ones_like(target, dtype=bias.dtype)
            by_bias.index_add_(0, target, ones, alpha=smoothing - 1.0)
            ctx.save_for_backward(by_outputs, by_weight, by_bias)
        smoothed = (1.0 - smoothing) * cross_entropy + smoothing * uniform
        ctx.mark_non_differentiable(cross_entropy)
        return smoothed, cross_entropy

    @staticmethod
    def backward(ctx: Any, by_smoothed: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` has computed."""
        by_outputs, by_weight, by_bias = ctx.saved_tensors
        scaled = by_outputs * by_smoothed, by_weight * by_smoothed, by_bias * by_smoothed
        return *scaled, None, None, None
