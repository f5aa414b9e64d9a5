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

    def may_have(self, num_tensors: int, num_elements: int) -> bool:
        """Whether its parameters may be so many, and have so many elements, without building it.

        A config that asks for far more than a file of parameters holds is so found out before
        there is memory allocated for it. Counted is less than there is: a matrix for each layer.
        """
        config, width = self.config, self.config.dimension
        matrices = [width * self.source_size, width * self.target_size]
        depth = config.encoder_layers + config.decoder_layers
        if config.type == "rnn":
            width = config.state_dimension or width
            depth = max(config.encoder_cell_depth, config.decoder_base_cell_depth) + depth - 2
            if config.decoder_layers > 1:
                depth = max(depth, config.decoder_high_cell_depth)
        else:
            matrices.append(width * (config.feed_forward or 1))
            if config.positions == "learned":
                matrices.append(width * config.max_positions)
        matrices.append(depth * width * width)
        return depth <= num_tensors and max(matrices) <= num_elements


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
