"""From the configuration to a network."""

from __future__ import annotations

from dataclasses import dataclass

from nmtasync.config.schema import ModelConfig
from nmtasync.errors import UserError
from nmtasync.models.embeddings import Embeddings
from nmtasync.models.rnn import RecurrentNetwork
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.transformer import Transformer


@dataclass(frozen=True)
class ModelSpec:
    """All that it takes to build a network, also in another process.

    Attributes:
        config: What to build.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.
    """

    config: ModelConfig
    source_size: int
    target_size: int

    def build(self) -> SequenceToSequence:
        """Build the network, its parameters drawn from torch's global generator."""
        return build_model(self.config, self.source_size, self.target_size)


def build_model(config: ModelConfig, source_size: int, target_size: int) -> SequenceToSequence:
    """Build a network, its parameters drawn from torch's global generator.

    Args:
        config: What to build.
        source_size: Pieces of the source vocabulary.
        target_size: Pieces of the target vocabulary.

    Raises:
        UserError: The sizes, or the options of the model, don't fit each other.
    """
    if config.tied_embeddings == "all" and source_size != target_size:
        raise UserError(
            f"is 'all', but the vocabularies have {source_size} and {target_size} pieces",
            where="model.tied_embeddings",
            remedy="set it to 'target' or 'none'",
        )
    embeddings = Embeddings(config, source_size, target_size)
    match config.type:
        case "transformer":
            return Transformer(embeddings, config)
        case "rnn":
            return RecurrentNetwork(embeddings, config)
        case unknown:
            raise AssertionError(unknown)
