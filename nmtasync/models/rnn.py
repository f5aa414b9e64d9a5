"""A recurrent encoder-decoder: bidirectional GRUs, then a conditional GRU with attention.

Source: Sennrich et al. 2017, "Nematus: a Toolkit for Neural Machine Translation"; layer
normalisation in cells and more than one layer or unit: as in Miceli Barone et al. 2017, "Deep
Architectures for Neural Machine Translation". Added to it, on request: layer normalisation between
layers, which lets it learn as fast as a Transformer does.
Shapes: B sentences, S source pieces, T target pieces, D dimension of embeddings, R width of the
recurrent states; in beam search N sentences with K hypotheses each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmtasync.config.schema import ModelConfig
from nmtasync.models.attention import attention_bias, initialise
from nmtasync.models.conditional_gru import ConditionalGRU, Memory
from nmtasync.models.dropout import Dropout
from nmtasync.models.embeddings import Embeddings
from nmtasync.models.gru import CellOptions, GatedLayer
from nmtasync.models.projection import Projection
from nmtasync.models.sequence_to_sequence import DecoderState, Encoded, SequenceToSequence


@dataclass(frozen=True)
class RecurrentState(DecoderState):
    """What the decoder remembers.

    Attributes:
        states: Of each layer, the conditional one first, its state [N, K, R].
        memory: The sources, which the K hypotheses of a sentence share.
    """

    states: list[Tensor]
    memory: Memory


class RecurrentEncoder(nn.Module):
    """Bidirectional GRUs, R wide in either direction."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = state_size(config)
        width = 2 * size
        sizes = [config.dimension] + [width] * (config.encoder_layers - 1)
        same = (size, config.encoder_cell_depth, cell_options(config))
        self.forwards = nn.ModuleList(GatedLayer(size, *same) for size in sizes)
        self.backwards = nn.ModuleList(GatedLayer(size, *same) for size in sizes)
        self.norms = nn.ModuleList(build_norm(width, config) for _ in sizes)
        self.residual = config.residual_connections
        self.dropout = build_dropout(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Read embedded sources [B, S, D] to states [B, S, 2R].

        Each sentence is turned round within its own length, so that no direction reads padding
        before it reads the sentence; what stands at padding is nobody's concern.
        """
        lengths = mask.sum(1, keepdim=True)
        positions = torch.arange(mask.shape[1], device=mask.device)[None, :]
        turned = torch.where(positions < lengths, lengths - 1 - positions, positions)
        rows = torch.arange(mask.shape[0], device=mask.device)[:, None]
        normal = x
        layers = zip(self.forwards, self.backwards, self.norms, strict=True)
        for number, (forwards, backwards, norm) in enumerate(layers):
            assert isinstance(forwards, GatedLayer) and isinstance(backwards, GatedLayer)
            there = forwards.run(normal)
            back = backwards.run(normal[rows, turned])
            states = self.dropout(torch.cat((there, back[rows, turned]), dim=2))
            x = x + states if number and self.residual else states
            normal = norm(x)
        return normal


class RecurrentDecoder(nn.Module):
    """A conditional GRU, GRUs above it, and the deep output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dimension, size, cell = config.dimension, state_size(config), cell_options(config)
        memory_size, upper = 2 * size, range(config.decoder_layers - 1)
        self.initial = Projection(memory_size, size, normalised=cell.normalised)
        attention_size = memory_size if config.attention_width == "source" else size
        depth = config.decoder_base_cell_depth
        self.conditional = ConditionalGRU(dimension, size, memory_size, attention_size, depth, cell)
        self.upper = nn.ModuleList(
            GatedLayer(size, size, config.decoder_high_cell_depth, cell) for _ in upper
        )
        self.norms = nn.ModuleList(build_norm(size, config) for _ in upper)
        self.output = nn.Linear(dimension + size + memory_size, dimension)
        normalised = config.layer_normalization != "none"
        self.output_norm = nn.LayerNorm(dimension) if normalised else nn.Identity()
        self.residual = config.residual_connections
        self.dropout = build_dropout(config)
        initialise(self.initial)
        initialise(self.output)

    def begin(self, encoded: Encoded) -> Tensor:
        """Compute the first state [B, R] from the mean of the encoder's states [B, S, 2R]."""
        real = encoded.mask.unsqueeze(2).to(encoded.states.dtype)
        mean = (encoded.states * real).sum(1) / real.sum(1)
        return torch.tanh(self.initial(mean))

    def read(self, encoded: Encoded) -> Memory:
        """Compute what the attention needs of the sources."""
        bias = attention_bias(encoded.mask, encoded.states.dtype)[:, 0]
        return self.conditional.read(encoded.states, bias)

    def forward(self, x: Tensor, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Run over embedded targets [B, T, D].

        Returns:
            The deep output [B, T, D], and the energies of `ConditionalGRU` [B, T, S].
        """
        first = self.begin(encoded)
        states, contexts, energies = self.conditional(x, first, self.read(encoded))
        states = self.dropout(states)
        for layer, norm in zip(self.upper, self.norms, strict=True):
            assert isinstance(layer, GatedLayer)
            above = self.dropout(layer.run(norm(states), first))
            states = states + above if self.residual else above
        return self.join(x, states, contexts), energies

    def step(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Read one embedded piece of each hypothesis [N, K, D]; without dropout."""
        top, contexts = self.conditional.step(x, state.states[0], state.memory)
        states = [top]
        for layer, norm, before in zip(self.upper, self.norms, state.states[1:], strict=True):
            assert isinstance(layer, GatedLayer)
            after = layer.run(norm(top).flatten(0, 1).unsqueeze(1), before.flatten(0, 1))
            states.append(after.view(before.shape))
            top = top + states[-1] if self.residual else states[-1]
        return self.join(x, top, contexts), RecurrentState(states, state.memory)

    def join(self, x: Tensor, states: Tensor, contexts: Tensor) -> Tensor:
        """Compute the deep output of input, state and context (Pascanu et al. 2014)."""
        joined = self.output(torch.cat((x, states, contexts), dim=-1))
        output: Tensor = self.dropout(torch.tanh(self.output_norm(joined)))
        return output


class RecurrentNetwork(SequenceToSequence):
    """A GRU encoder-decoder with attention.

    Args:
        embeddings: The embeddings of both sides, of width D.
        config: Its sizes and what it is like.
    """

    def __init__(self, embeddings: Embeddings, config: ModelConfig) -> None:
        super().__init__(embeddings)
        self.encoder = RecurrentEncoder(config)
        self.decoder = RecurrentDecoder(config)
        self.dropout = build_dropout(config)

    def encode(self, source: Tensor, source_mask: Tensor) -> Encoded:
        """Read the source, as the interface says; the states are [B, S, 2R]."""
        x = self.dropout(self.embeddings.embed_source(source))
        return Encoded(self.encoder(x, source_mask), source_mask)

    def decode(self, encoded: Encoded, target_input: Tensor) -> Tensor:
        """Run the decoder over whole targets, as the interface says."""
        return self._run_decoder(encoded, target_input)[0]

    def decode_with_attention(
        self, encoded: Encoded, target_input: Tensor, layer: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder and return its attention, as the interface says: of its only layer."""
        assert layer is None
        outputs, energies = self._run_decoder(encoded, target_input)
        sum_dtype = torch.promote_types(energies.dtype, torch.float32)
        return outputs, torch.log_softmax(energies, dim=2, dtype=sum_dtype)

    def _run_decoder(self, encoded: Encoded, target_input: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout(self.embeddings.embed_target(target_input))
        outputs: tuple[Tensor, Tensor] = self.decoder(x, encoded)
        return outputs

    def start(self, encoded: Encoded) -> RecurrentState:
        """Compute the first states and read the sources for the attention."""
        first = self.decoder.begin(encoded).unsqueeze(1)
        layers = 1 + len(self.decoder.upper)
        return RecurrentState([first] * layers, self.decoder.read(encoded))

    def decode_step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, RecurrentState]:
        """Read one piece, as the interface says."""
        assert isinstance(state, RecurrentState)
        sentences, hypotheses, _ = state.states[0].shape
        x = self.embeddings.embed_target(tokens).view(sentences, hypotheses, -1)
        outputs, after = self.decoder.step(x, state)
        return self.logits(outputs.flatten(0, 1)), after

    def reorder(self, state: DecoderState, rows: Tensor) -> RecurrentState:
        """Select and repeat rows, as the interface says; sources are copied only if they must."""
        assert isinstance(state, RecurrentState)
        sentences, hypotheses, _ = state.states[0].shape
        states = [layer.flatten(0, 1)[rows] for layer in state.states]
        leaves = rows.shape[0] < sentences
        memory = state.memory.select(rows[:, 0] // hypotheses) if leaves else state.memory
        return RecurrentState(states, memory)


def state_size(config: ModelConfig) -> int:
    """R."""
    return config.state_dimension or config.dimension


def cell_options(config: ModelConfig) -> CellOptions:
    """Select what the cells are like."""
    normalised = config.layer_normalization in ("cells", "both")
    return CellOptions(normalised, config.dropout_rnn, config.state_bias)


def build_dropout(config: ModelConfig) -> Dropout:
    """Build the dropout of sequences [B, T, ...]."""
    return Dropout(config.dropout, shared=1 if config.variational_dropout else None)


def build_norm(width: int, config: ModelConfig) -> nn.Module:
    """Build the layer normalisation between layers, or what does nothing."""
    normalised = config.layer_normalization in ("layers", "both")
    return nn.LayerNorm(width) if normalised else nn.Identity()
