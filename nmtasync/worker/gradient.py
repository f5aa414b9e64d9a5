"""The gradient of a mini-batch: a pure function of parameters, batch and seed.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.config.schema import TrainingConfig
from nmtasync.data.batches import Batch
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel
from nmtasync.worker.compilation import compile_layers, running_compiled
from nmtasync.worker.loss_scale import LossScale
from nmtasync.worker.objective import run_network, sum_losses
from nmtasync.worker.precision import compute_type


@dataclass(frozen=True)
class BatchFigures:
    """What is known of a batch once its gradient is there.

    Attributes:
        cross_entropy: Sum over the target words, in nats; still on the device.
        target_words: End of sentence counted, padding not.
        source_words: Likewise.
    """

    cross_entropy: Tensor
    target_words: int
    source_words: int


class GradientFunction:
    """Computes gradients as `training.precision` and `training.compile` say.

    In 16 bits the network computes on a copy of the parameters of that type, made anew for each
    batch in one pass over the vector, and its gradient is added to the one in float32. So sums
    over batches, clipping, optimizers and everything that is exchanged or saved stay in float32;
    so do the statistics of layer normalisation, softmax and loss, which their kernels keep.
    Source: Micikevicius et al. 2018, "Mixed Precision Training" (arXiv 1710.03740), section 3; of
    the copy of the whole network: Ott et al. 2018, "Scaling Neural Machine Translation".

    Args:
        flat: The model, whose `parameters` are read and to whose `gradients` is added, both [P]
            in float32.
        config: Precision, compilation, label smoothing, guided alignment.

    Attributes:
        scale: Of the loss, in float16; else None.
    """

    def __init__(self, flat: FlatModel[SequenceToSequence], config: TrainingConfig) -> None:
        self.flat = flat
        self.config = config
        dtype = compute_type(config.precision)
        self.scale = LossScale() if dtype == torch.float16 else None
        self._half: FlatModel[SequenceToSequence] | None = None
        if dtype != torch.float32:
            self._half = FlatModel(copy.deepcopy(flat.model).to(dtype))
        computing = self._half or flat
        computing.model.train()
        if config.compile:
            compile_layers(computing.model)

    def add(self, batch: Batch, seed: int) -> BatchFigures:
        """Add the batch's gradient, summed over its target words, to `flat.gradients`.

        Args:
            batch: On the model's device.
            seed: Of the dropout; see `batch_seed`.
        """
        compiled = running_compiled(batch) if self.config.compile else contextlib.nullcontext()
        with compiled:
            return self._add(batch, seed)

    def _add(self, batch: Batch, seed: int) -> BatchFigures:
        factor = 1.0 if self.scale is None else self.scale.factor
        figures = add_gradient(self.begin(), batch, self.config, seed, factor)
        self.end()
        return figures

    def begin(self) -> FlatModel[SequenceToSequence]:
        """Give the model that computes the next batch, with the newest parameters."""
        if self._half is None:
            return self.flat
        self._half.parameters.copy_(self.flat.parameters)
        self._half.gradients.zero_()
        return self._half

    def end(self) -> None:
        """Add the batch's gradient to the one in float32, where it is not there already."""
        if self._half is not None:
            factor = 1.0 if self.scale is None else self.scale.factor
            self.flat.gradients.add_(self._half.gradients, alpha=1.0 / factor)


def add_gradient(
    flat: FlatModel[SequenceToSequence],
    batch: Batch,
    config: TrainingConfig,
    seed: int,
    scale: float = 1.0,
) -> BatchFigures:
    """Add the batch's gradient, summed over its target words, to `flat.gradients`.

    Args:
        flat: The model.
        batch: On the model's device.
        config: Label smoothing and guided alignment.
        seed: Of the dropout; see `batch_seed`.
        scale: What the gradient is multiplied by; a power of two, which rounds nothing.
    """
    torch.manual_seed(seed)
    outputs, log_weights = run_network(flat.model, batch, config)
    loss, cross_entropy = sum_losses(flat.model, batch, outputs, log_weights, config)
    scaled = loss if scale == 1.0 else scale * loss
    scaled.backward()  # type: ignore[no-untyped-call]
    return BatchFigures(cross_entropy, batch.target_words, batch.source_words)


def batch_seed(seed: int, epoch: int, index: int) -> int:
    """Derive the seed of a batch's dropout, the same whoever computes the batch and when."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{index}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def clip_factor(gradient_norm: float, clip_norm: float | None) -> float:
    """By how much to shrink a gradient so that its norm is at most `clip_norm`."""
    if clip_norm is None or gradient_norm <= clip_norm:
        return 1.0
    return clip_norm / gradient_norm
