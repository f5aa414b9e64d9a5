"""The gradient of a mini-batch, a pure function of parameters, batch and seed; and of a window.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nmtasync.config.schema import Config, TrainingConfig
from nmtasync.data.batches import Batch, Int64s, collate
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.machine.memory import compute_in_parts
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.clipping import clip_factor
from nmtasync.optim.flat import FlatModel
from nmtasync.worker.batch_gradient import BatchGradient
from nmtasync.worker.compilation import compile_layers, running_compiled
from nmtasync.worker.loss_scale import LossScale
from nmtasync.worker.narrow_copy import NarrowCopy
from nmtasync.worker.objective import run_network, sum_losses
from nmtasync.worker.precision import compute_type

Phase = Callable[[str], contextlib.AbstractContextManager[object]]
"""The context in which a phase of a batch runs, by the phase's name."""


@dataclass(frozen=True)
class BatchFigures:
    """What is known of a batch once its gradient is there.

    Attributes:
        cross_entropy: Sum over the target words, in nats; still on the device.
        target_words: End of sentence counted, padding not.
        source_words: Likewise.
        padding: What was computed besides the words of both sides.
    """

    cross_entropy: Tensor
    target_words: int
    source_words: int
    padding: int


class OtherDevices(Protocol):
    """The devices of a host besides its worker's own, which compute at the same time."""

    def hand_out(self, slot: int) -> None:
        """Let them compute on the parameters that the worker has in one of its slots."""
        ...

    def begin(self, batches: Sequence[AssignedBatch], scale: Mapping[str, int]) -> None:
        """Let each begin a batch, as far as there are some; `scale` is that of the loss."""
        ...

    def finish(self, gradients: Tensor) -> tuple[list[BatchFigures], int]:
        """Wait for what was begun, and add it to the gradients [P] in the order of the batches.

        Returns:
            The figures of the batches, and how many of them were computed in parts.
        """
        ...


class GradientFunction:
    """Computes gradients as `training.precision` and `training.compile` say.

    In 16 bits the network computes on a copy of the parameters of that type, made in one pass over
    the vector when they may have changed, and its gradient is added to the one in float32. So sums
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
        self._narrow = NarrowCopy(flat, dtype) if dtype != torch.float32 else None
        computing = flat.model if self._narrow is None else self._narrow.model
        computing.train()
        if config.compile:
            compile_layers(computing)

    def add(self, batch: Batch, seed: int, phase: Phase = contextlib.nullcontext) -> BatchFigures:
        """Add the batch's gradient, summed over its target words, to `flat.gradients`.

        Args:
            batch: On the model's device.
            seed: Of the dropout; see `batch_seed`.
            phase: The context of each phase; measures them when profiling.
        """
        compiled = running_compiled(batch) if self.config.compile else contextlib.nullcontext()
        with compiled:
            with phase("cast"):
                computing = self.begin()
            factor = 1.0 if self.scale is None else self.scale.factor
            figures = add_gradient(computing, batch, self.config, seed, factor, phase)
            with phase("cast"):
                self._end(factor)
        return figures

    def begin(self) -> SequenceToSequence:
        """Return the network that computes the next batch, with the newest parameters."""
        if self._narrow is None:
            return self.flat.model
        if self.may_have_moved():
            self._narrow.follow()
        self._narrow.drop_gradients()
        return self._narrow.model

    def may_have_moved(self) -> bool:
        """Whether the parameters may be others than those of the batch before; asked once each."""
        return True

    def _end(self, factor: float) -> None:
        """Add the batch's gradient to the one in float32, where it is not there already."""
        if self._narrow is not None:
            self._narrow.hand_over(1.0 / factor)


class WindowGradient(GradientFunction):
    """Sums the gradients of the batches that a worker or rank is assigned, and clips the sum.

    A batch for which memory does not suffice is computed in parts, whose gradients sum up to its
    own; only dropout drops other elements. What a failed backward pass has added in float32 can't
    be told from the sum, which is then computed again from what it was made of.

    Args:
        flat: As of `GradientFunction`.
        corpus: The training corpus.
        config: The experiment.
        others: Devices that compute with this one; None if it is alone.
    """

    def __init__(
        self,
        flat: FlatModel[SequenceToSequence],
        corpus: ParallelShards,
        config: Config,
        others: OtherDevices | None = None,
    ) -> None:
        super().__init__(flat, config.training)
        self.corpus = corpus
        self.others = others
        self.clip_norm = config.optimizer.clip_norm
        self._num_split = 0
        self._moved = True
        self._base: Tensor | None = None
        self._summed: list[_Part] | None = None

    def begin_sum(self) -> None:
        """Set the sum to zero; the parameters may be new, and stay until the next sum."""
        self.flat.gradients.zero_()
        self._base, self._summed = None, []
        self._moved = True

    def may_have_moved(self) -> bool:
        """As of `GradientFunction`: within a window they stay, but for what takes batches apart."""
        moved, self._moved = self._moved, False
        return moved

    def take_num_split(self) -> int:
        """Return how many batches were computed in parts since this was last asked."""
        number, self._num_split = self._num_split, 0
        return number

    def collate(self, assigned: AssignedBatch) -> Batch:
        """Put the sentences of a batch together, on the model's device."""
        return self._collate(assigned.sentences, self._seed(assigned))

    def _collate(self, sentences: Int64s, seed: int) -> Batch:
        aligned = self.config.guides_alignment
        batch = collate(self.corpus, sentences, seed=seed, aligned=aligned)
        return batch.to(self.flat.parameters.device)

    def add_assigned(self, assigned: AssignedBatch, batch: Batch | None = None) -> BatchFigures:
        """Add the gradient of an assigned batch, as `add`; `batch` is it, if it was collated."""
        if self._summed is None and self._narrow is None:  # it was not made here alone
            self._base, self._summed = self.flat.gradients.clone(), []
        sentences = assigned.sentences
        seed = self._seed(assigned)

        def add(places: range) -> BatchFigures:
            whole = len(places) == len(sentences)
            own_seed = seed if places.start == 0 else _part_seed(seed, places.start)
            part = _Part(sentences[places.start : places.stop], own_seed)
            return self._add_part(part, batch if whole else None)

        figures = compute_in_parts(len(sentences), add, self._take_back)
        if len(figures) == 1:
            return figures[0]
        self._num_split += 1
        return BatchFigures(
            torch.stack([part.cross_entropy for part in figures]).sum(),
            sum(part.target_words for part in figures),
            sum(part.source_words for part in figures),
            sum(part.padding for part in figures),
        )

    def _seed(self, assigned: AssignedBatch) -> int:
        return batch_seed(self.config.seed, assigned.epoch, assigned.index)

    def add_together(self, assigned: Sequence[AssignedBatch]) -> list[BatchFigures]:
        """Add the gradients of a batch of each device, in their order.

        One device alone computes them one after another, to the same sum, bit for bit: autograd
        adds to each gradient once a batch, and where batches begin from zero makes no difference.
        """
        if self.others is None:
            return [self.add_assigned(batch) for batch in assigned]
        self.others.begin(assigned[1:], {} if self.scale is None else self.scale.numbers())
        figures = [self.add_assigned(assigned[0])]
        more, num_split = self.others.finish(self.flat.gradients)
        self._num_split += num_split
        if more:
            self._summed = None
        return figures + more

    def add_apart(
        self, assigned: Sequence[AssignedBatch], room: BatchGradient
    ) -> list[BatchFigures]:
        """Sum gradients of assigned batches in a room of their own, and add that to the sum."""
        with room.apart():
            self._base, self._summed = None, []
            self._moved = True
            figures = self.add_together(assigned)
        self.flat.gradients.add_(room.gradient)
        self._summed, self._moved = None, True
        return figures

    def _add_part(self, part: _Part, batch: Batch | None = None) -> BatchFigures:
        if batch is None:
            batch = self._collate(part.sentences, part.seed)
        figures = self.add(batch, part.seed)
        if self._summed is not None:
            self._summed.append(part)
        return figures

    def _take_back(self) -> None:
        """Let the sum be what it was before the part that has failed."""
        if self._narrow is not None:
            return  # whose gradients reach the sum only when they are whole
        assert self._summed is not None
        summed, self._summed = self._summed, []
        if self._base is None:
            self.flat.gradients.zero_()
        else:
            self.flat.gradients.copy_(self._base)
        for part in summed:
            self._add_part(part)

    def finish(self, gradient: Tensor, norm: float, *, clip: bool = True) -> bool:
        """Clip a window's gradient in place, and let the scale of the loss follow it.

        Args:
            gradient: The sum over the window, or a part of it.
            norm: Of the whole sum, per target word.
            clip: Whether there is anything to clip.

        Returns:
            Whether the gradient overflowed, as of `LossScale.adapt`.
        """
        factor = clip_factor(norm, self.clip_norm) if clip else 1.0
        if factor < 1.0:
            gradient.mul_(factor)
        return self.scale is not None and self.scale.adapt(norm)


def add_gradient(
    model: SequenceToSequence,
    batch: Batch,
    config: TrainingConfig,
    seed: int,
    scale: float = 1.0,
    phase: Phase = contextlib.nullcontext,
) -> BatchFigures:
    """Add the batch's gradient, summed over its target words, to its parameters'.

    Args:
        model: The network.
        batch: On the model's device.
        config: Label smoothing and guided alignment.
        seed: Of the dropout; see `batch_seed`.
        scale: What the gradient is multiplied by; a power of two, which rounds nothing.
        phase: As of `GradientFunction.add`: here "forward", "loss", "backward".
    """
    _seed_dropout(seed, batch.source.device)
    with phase("forward"):
        outputs, log_weights = run_network(model, batch, config)
    with phase("loss"):
        loss, cross_entropy = sum_losses(model, batch, outputs, log_weights, config)
        scaled = loss if scale == 1.0 else scale * loss
    with phase("backward"):
        scaled.backward()  # type: ignore[no-untyped-call]
    return BatchFigures(cross_entropy, batch.target_words, batch.source_words, batch.padding)


@dataclass(frozen=True)
class _Part:
    """A batch or a part of one: its sentences in the corpus, and the seed of all that is drawn."""

    sentences: Int64s
    seed: int


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout on a device draws from.

    On a CPU that one alone: `torch.manual_seed` also leaves word for devices that are not in use,
    with the lines of code that did, which takes 0.8 ms.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _part_seed(seed: int, start: int) -> int:
    """Derive the seed of a part of a batch that begins at its sentence `start`."""
    return batch_seed(seed, 0, start)


def batch_seed(seed: int, epoch: int, index: int) -> int:
    """Derive the seed of what is drawn for a batch: its dropout, and its pieces.

    It is the same whoever computes the batch and when.
    """
    digest = hashlib.blake2b(f"{seed}:{epoch}:{index}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
