"""Label-smoothed cross-entropy that never holds all logits.

The peer is `torch.nn.functional.linear_cross_entropy`. It is not used because PyTorch has it only
from 2.13 on and 2.6 must do, because with label smoothing it holds all logits after all, and
because it returns one number where training wants two, smoothed and plain. How fast either is:
benchmarks/loss_speed.py.
Shapes: B sentences, T target pieces, M real target pieces of a batch, C pieces of a chunk,
D dimension, V target vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.wide_gradient import WideGradient

_CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""The most logits that are held at a time; smaller chunks read the weights too often."""


def loss_sums(
    model: SequenceToSequence,
    outputs: Tensor,
    target: Tensor,
    real_targets: Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Sum the loss over the real target pieces of a batch.

    Args:
        model: The network.
        outputs: What its decoder has put out [B, T, D].
        target: Target ids, the end of sentence last, padding after it [B, T].
        real_targets: Where `target`, read row by row, is no padding [M].
        label_smoothing: Probability mass e that is spread over the vocabulary.

    Returns:
        The smoothed loss, (1 - e) * -log p(target) + e * mean over V of -log p, with a gradient,
        and the cross-entropy, -log p(target), without one: two scalars in float32 (or the
        model's type, if that is wider), in nats, summed.
    """
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
        target: The ids to be predicted [M].
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
    the matrix products as it is, divided by its sums [C] where it is smaller; the target's share
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
        sum_dtype = torch.promote_types(weight.dtype, torch.float32)
        rows = _rows_of_a_chunk(size, vocabulary * sum_dtype.itemsize, outputs.device)

        # The sums over the vocabulary of the logits of any row are a product with these.
        weight_sum, bias_sum = weight.sum(0, dtype=sum_dtype), bias.sum(dtype=sum_dtype)
        cross_entropy = torch.zeros((), dtype=sum_dtype, device=weight.device)
        uniform = cross_entropy.clone()  # minus the mean over V of log p

        # The gradients begin with the share that every piece of the vocabulary has in q.
        if with_gradient:
            grad_outputs = torch.empty_like(outputs, dtype=sum_dtype)
            spread = -smoothing / vocabulary
            outputs_sum = outputs.sum(0, dtype=sum_dtype)
            grad_weight = (spread * outputs_sum).expand_as(weight).contiguous()
            grad_bias = torch.full_like(bias, spread * size, dtype=sum_dtype)

        for start in range(0, size, rows):
            # The logits of a chunk [C, V], in one tensor that becomes their exponentials.
            part, target_ids = outputs[start : start + rows], target[start : start + rows]
            logits = torch.addmm(bias, part, weight.t()).to(sum_dtype)
            target_logits = logits.gather(1, target_ids[:, None]).squeeze(1)
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            # -log p = log sum exp of the logits - the logit, of the target and in the mean over V.
            normalizers = (sums.log() + highest).squeeze(1)
            cross_entropy += (normalizers - target_logits).sum()
            mean_logits = (part.to(sum_dtype) @ weight_sum + bias_sum) / vocabulary
            uniform += (normalizers - mean_logits).sum()
            # Softmax's share of the gradients: products with exponentials / sums.
            if with_gradient:
                grad_bias += sums.reciprocal().squeeze(1) @ exponentials
                scaled = (part / sums).to(part.dtype)
                exponentials = exponentials.to(part.dtype)
                _multiply(exponentials, weight, out=grad_outputs[start : start + rows])
                grad_outputs[start : start + rows] /= sums
                _add_product(grad_weight, exponentials.t(), scaled)

        # What q has at the target besides.
        if with_gradient:
            grad_outputs -= (1.0 - smoothing) * weight[target].to(sum_dtype) - spread * weight_sum
            grad_weight.index_add_(0, target, outputs.to(sum_dtype), alpha=smoothing - 1.0)
            ones = torch.ones_like(target, dtype=sum_dtype)
            grad_bias.index_add_(0, target, ones, alpha=smoothing - 1.0)
            ctx.save_for_backward(grad_outputs, grad_weight, grad_bias)
            ctx.wide = None, WideGradient.of(weight), WideGradient.of(bias)
            ctx.dtype = outputs.dtype
        smoothed = (1.0 - smoothing) * cross_entropy + smoothing * uniform
        ctx.mark_non_differentiable(cross_entropy)
        return smoothed, cross_entropy

    @staticmethod
    def backward(ctx: Any, grad_smoothed: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` has computed, and only then round them to 16 bits."""
        returned: list[Tensor | None] = []
        for part, wide in zip(ctx.saved_tensors, ctx.wide, strict=True):
            scaled = part * grad_smoothed
            if wide is not None:
                wide.add(scaled)
            returned.append(None if wide is not None else scaled.to(ctx.dtype))
        return *returned, None, None, None


def _rows_of_a_chunk(size: int, row_bytes: int, device: torch.device) -> int:
    """Cut rows of logits into as few chunks as may be, of equal size, none a leftover."""
    chunk_bytes = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cuda"])
    most_rows = max(1, chunk_bytes // row_bytes)
    chunks = max(1, math.ceil(size / most_rows))
    return max(1, math.ceil(size / chunks))


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
