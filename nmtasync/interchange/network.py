"""A trained network as formats of other programs take it: architecture, parameters, pieces.

Shapes: V pieces of a vocabulary, D dimension, L positions, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtasync.config.schema import ModelConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.positions import LearnedPositions, Positions
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.transformer import Transformer
from nmtasync.models.transformer_layers import num_heads


@dataclass(frozen=True)
class Affine:
    """A linear layer's parameters.

    Attributes:
        weight: [O, I].
        bias: [O].
    """

    weight: Tensor
    bias: Tensor

    def parts(self, sizes: Sequence[int]) -> list[Affine]:
        """Cut it into layers of so many outputs each."""
        parts = (torch.split(whole, list(sizes)) for whole in (self.weight, self.bias))
        return [Affine(*pair) for pair in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        config: What it is like.
        model: The network itself.
        vocabularies: Of both sides.
    """

    config: ModelConfig
    model: SequenceToSequence
    vocabularies: VocabularyPair

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Its parameters by name, in float32; a matrix that is shared is there once."""
        return {name: p.detach().contiguous() for name, p in self.model.named_parameters()}

    @property
    def heads(self) -> int:
        """Attention heads of each layer."""
        return num_heads(self.config)

    @property
    def source_matrix(self) -> Tensor:
        """The embeddings of the source, before they are scaled by sqrt(D) [V, D]."""
        embeddings = self.model.embeddings
        return (embeddings.target if embeddings.source is None else embeddings.source).detach()

    @property
    def target_matrix(self) -> Tensor:
        """The embeddings of the target, before they are scaled by sqrt(D) [V, D]."""
        return self.model.embeddings.target.detach()

    def positions(self, length: int) -> Tensor | None:
        """Return what is added to scaled embeddings [L, D], L no more than there are.

        None where positions are told otherwise.
        """
        assert isinstance(self.model, Transformer)
        positions = self.model.positions
        if not isinstance(positions, Positions):
            return None
        if isinstance(positions, LearnedPositions):
            length = min(length, positions.table.shape[0])
        with torch.no_grad():
            return positions.rows(0, length, self.target_matrix).clone()

    def affine(self, name: str) -> Affine:
        """Return a layer's weight and bias: a linear layer's, or a normalisation's [D]."""
        module = self.model.get_submodule(name)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        return Affine(weight.detach(), bias.detach())


def refuse_unfit(
    config: ModelConfig,
    who: str,
    holds: Mapping[str, Sequence[Any]],
    preset: str = "marian, which every format holds",
) -> None:
    """Refuse a network that a format has no place for.

    Args:
        config: What the network is like.
        who: Whose networks the format describes, as an error names it.
        holds: The values that an option may have, by its key in the section [model].
        preset: The preset that fits, and what is said of it.

    Raises:
        UserError: An option has another value.
    """
    for key, values in holds.items():
        value = getattr(config, key)
        if value not in values:
            fitting = " or ".join(_spelled(each) for each in values)
            raise UserError(
                f"is {_spelled(value)}, but {who} has {fitting} only",
                where=f"model.{key}",
                remedy=f"train with --set model.{key}={str(values[0]).lower()}, or with "
                f"--set model.preset={preset}",
            )


def _spelled(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value).lower()
