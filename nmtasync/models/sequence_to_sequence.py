"""The one interface of all networks: encode, decode step by step, or a whole target at once.

Shapes: B sentences, S source pieces, T target pieces, D dimension, V target vocabulary;
N sentences with K hypotheses each in beam search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.embeddings import Embeddings

PAD = 0
"""The id of padding; the same as the vocabulary's, which this layer doesn't import."""


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of a batch of source sentences.

    Attributes:
        states: The encoder's output [B, S, D'], with D' the network's own width.
        mask: True where there is a real source piece [B, S].
    """

    states: Tensor
    mask: Tensor


class DecoderState:
    """What a decoder remembers between two steps; each network has its own."""


class SequenceToSequence(nn.Module, ABC):
    """A network that reads source pieces and predicts target pieces.

    Args:
        embeddings: The embeddings of both sides and the output projection.

    Attributes:
        max_length: The most pieces of a sentence, its end counted; None for no limit.
        output_projection: What computes the logits; None for the embeddings' weight and bias.
    """

    max_length: int | None = None

    def __init__(self, embeddings: Embeddings) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.output_projection: nn.Module | None = None

    @abstractmethod
    def encode(self, source: Tensor, source_mask: Tensor) -> Encoded:
        """Read the source.

        Args:
            source: Source ids, the end of sentence included [B, S].
            source_mask: True where `source` is a real piece, one at least in each row [B, S].
        """

    @abstractmethod
    def decode(self, encoded: Encoded, target_input: Tensor) -> Tensor:
        """Run the decoder over whole targets, each position seeing only those before it.

        Args:
            encoded: What `encode` returned, for B sentences.
            target_input: Target ids, shifted: the beginning of sentence first [B, T].

        Returns:
            The decoder's outputs, to be given to `logits` [B, T, D].
        """

    @abstractmethod
    def decode_with_attention(
        self, encoded: Encoded, target_input: Tensor, layer: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run as `decode`, and return where attention looks, for guided alignment.

        Args:
            encoded: What `encode` returned, for B sentences.
            target_input: As of `decode` [B, T].
            layer: Which layer of the decoder to ask, from 1 on, where several have attention;
                None leaves it to the network.

        Returns:
            The decoder's outputs [B, T, D], and the logarithms of the weights with which each
            position attends to the source, one distribution for each, before dropout; padding
            of the source has next to no weight. In float32, or the network's type if that is
            wider: [B, T, S].
        """

    @abstractmethod
    def start(self, encoded: Encoded) -> DecoderState:
        """Compute the state in which nothing has been generated, one row for each sentence."""

    @abstractmethod
    def decode_step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one piece and predict the next.

        Args:
            tokens: The last piece of each row, at first the beginning of sentence [B].
            state: The state before it, which must not be used again.

        Returns:
            The logits of the next piece [B, V], and the state after `tokens`.
        """

    @abstractmethod
    def reorder(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """Select and repeat a state's rows, as beam search does after each step.

        Args:
            state: A state of N sentences with K rows each, in the order of the sentences; it must
                not be used again.
            rows: For each of N' sentences the K' old rows that go on [N', K']. The rows of one
                sentence come from one old sentence. Sentences keep their places, or leave, so
                N' <= N; others may then take the places of those that leave.

        Returns:
            A state of N' sentences with K' rows each.
        """

    def forward(self, source: Tensor, source_mask: Tensor, target_input: Tensor) -> Tensor:
        """Run encoder and decoder; arguments as in `encode` and `decode`.

        Returns:
            The decoder's outputs before the output projection [B, T, D].
        """
        return self.decode(self.encode(source, source_mask), target_input)

    def logits(self, outputs: Tensor) -> Tensor:
        """Project the decoder's outputs [..., D] to unnormalised log probabilities [..., V]."""
        if self.output_projection is not None:
            projected: Tensor = self.output_projection(outputs)
            return projected
        return F.linear(outputs, self.embeddings.output_weight, self.embeddings.output_bias)
