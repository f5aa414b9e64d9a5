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
    real_targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum the loss over the real target pieces of a batch.

    Args:
        model: The network.
        source: Source ids [B, S].
        source_mask: True where `source` is a real piece [B, S].
        target_input: Target ids, the beginning of sentence first [B, T].
        target: Target ids, the end of sentence last, padding after it [B, T].
        label_smoothing: Probability mass e that is spread over the vocabulary.
        real_targets: Where `target`, read row by row, is no padding [M]. None looks for it, which
            makes the host wait for a GPU.

    Returns:
        The smoothed loss, (1 - e) * -log p(target) + e * mean over V of -log p, with a gradient,
        and the cross-entropy, -log p(target), without one: two scalars in float32 (or the
        model's type, if that is wider), in nats, summed.
    """
    outputs = model(source, source_mask, target_input)
    if real_targets is None:
        real_targets = (target != PAD).flatten().nonzero().squeeze(1)
    return loss_of_outputs(model, outputs, target, real_targets, label_smoothing)


def loss_of_outputs(
    model: SequenceToSequence,
    outputs: Tensor,
    target: Tensor,
    real_targets: Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Do what `loss_sums` does after the network has computed its outputs [B, T, D]."""
    embeddings = model.embeddings
    return smoothed_cross_entropy(
        outputs.flatten(0, 1).index_select(0, real_targets),
        embeddings.output_weight,
        embeddings.output_bias,
        target.flatten().index_select(0, real_targets),
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

    Where the model computes in 16 bits, the matrix products do, too; maxima, exponentials, their
    sums, and the gradients until they are handed on, are in float32.
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
        wide = torch.promote_types(weight.dtype, torch.float32)
        chunk_bytes = _CHUNK_BYTES.get(outputs.device.type, _CHUNK_BYTES["cuda"])
        most_rows = max(1, chunk_bytes // (vocabulary * wide.itemsize))
        chunks = max(1, math.ceil(size / most_rows))
        rows = max(1, math.ceil(size / chunks))  # of equal size, none a leftover
        weight_sum, bias_sum = weight.sum(0, dtype=wide), bias.sum(dtype=wide)
        cross_entropy = torch.zeros((), dtype=wide, device=weight.device)
        uniform = cross_entropy.clone()  # minus the mean over V of log p
        if with_gradient:
            by_outputs = torch.empty_like(outputs, dtype=wide)
            spread = -smoothing / vocabulary  # the gradient's share that is the same everywhere
            outputs_sum = outputs.sum(0, dtype=wide)
            by_weight = (spread * outputs_sum).expand_as(weight).contiguous()
            by_bias = torch.full_like(bias, spread * size, dtype=wide)
        for start in range(0, size, rows):
            part, right = outputs[start : start + rows], target[start : start + rows]
            logits = torch.addmm(bias, part, weight.t()).to(wide)
            right_logits = logits.gather(1, right[:, None]).squeeze(1)
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            normalizers = (sums.log() + highest).squeeze(1)
            cross_entropy += (normalizers - right_logits).sum()
            mean_logits = (part.to(wide) @ weight_sum + bias_sum) / vocabulary
            uniform += (normalizers - mean_logits).sum()
            if with_gradient:
                by_bias += sums.reciprocal().squeeze(1) @ exponentials
                scaled = (part / sums).to(part.dtype)
                exponentials = exponentials.to(part.dtype)
                _multiply(exponentials, weight, out=by_outputs[start : start + rows])
                by_outputs[start : start + rows] /= sums
                _add_product(by_weight, exponentials.t(), scaled)
        if with_gradient:
            by_outputs -= (1.0 - smoothing) * weight[target].to(wide) - spread * weight_sum
            by_weight.index_add_(0, target, outputs.to(wide), alpha=smoothing - 1.0)
            ones = torch.ones_like(target, dtype=wide)
            by_bias.index_add_(0, target, ones, alpha=smoothing - 1.0)
            ctx.save_for_backward(by_outputs, by_weight, by_bias)
            ctx.dtype = outputs.dtype
        smoothed = (1.0 - smoothing) * cross_entropy + smoothing * uniform
        ctx.mark_non_differentiable(cross_entropy)
        return smoothed, cross_entropy

    @staticmethod
    def backward(ctx: Any, by_smoothed: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` has computed, and only then make them narrow."""
        scaled = [(part * by_smoothed).to(ctx.dtype) for part in ctx.saved_tensors]
        return *scaled, None, None, None


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write a matrix product where it may be of a wider type."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a sum that may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
