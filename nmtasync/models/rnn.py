"""A recurrent encoder-decoder: bidirectional GRUs, then a conditional GRU with attention.

Source: Sennrich et al. 2017, "Nematus: a Toolkit for Neural Machine Translation". Added to it:
layer normalisation between layers, which lets it learn as fast as a Transformer does.
Shapes: B sentences, S source pieces, T target pieces, D dimension of embeddings, R width of the
recurrent states; in beam search N sentences with K hypotheses each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmtasync.models.attention import attention_bias, initialise
from nmtasync.models.conditional_gru import ConditionalGRU, Memory
from nmtasync.models.dropout import Dropout
from nmtasync.models.embeddings import Embeddings
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
    """Bidirectional GRUs, R wide in either direction; from the second on with residuals."""

    def __init__(self, dimension: int, state_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        width = 2 * state_size
        sizes = [dimension] + [width] * (layers - 1)
        self.forwards = nn.ModuleList(make_gru(size, state_size) for size in sizes)
        self.backwards = nn.ModuleList(make_gru(size, state_size) for size in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in sizes)
        self.dropout = Dropout(dropout)

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
            there, _ = forwards(normal)
            back, _ = backwards(normal[rows, turned])
            states = self.dropout(torch.cat((there, back[rows, turned]), dim=2))
            x = x + states if number else states
            normal = norm(x)
        return normal


class RecurrentDecoder(nn.Module):
    """A conditional GRU, GRUs with residuals above it, and the deep output."""

    def __init__(self, dimension: int, state_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        memory_size = 2 * state_size
        self.initial = nn.Linear(memory_size, state_size)
        self.conditional = ConditionalGRU(dimension, state_size, memory_size)
        self.upper = nn.ModuleList(make_gru(state_size, state_size) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(state_size) for _ in range(layers - 1))
        self.output = nn.Linear(dimension + state_size + memory_size, dimension)
        self.output_norm = nn.LayerNorm(dimension)
        self.dropout = Dropout(dropout)
        initialise(self.initial)
        initialise(self.output)

    def begin(self, encoded: Encoded) -> Tensor:
        """Make the first state [B, R] from the mean of the encoder's states [B, S, 2R]."""
        real = encoded.mask.unsqueeze(2).to(encoded.states.dtype)
        mean = (encoded.states * real).sum(1) / real.sum(1)
        return torch.tanh(self.initial(mean))

    def read(self, encoded: Encoded) -> Memory:
        """Compute what the attention needs of the sources."""
        bias = attention_bias(encoded.mask, encoded.states.dtype)[:, 0]
        return self.conditional.read(encoded.states, bias)

    def forward(self, x: Tensor, encoded: Encoded) -> Tensor:
        """Run over embedded targets [B, T, D]; returns the deep output [B, T, D]."""
        first = self.begin(encoded)
        states, contexts = self.conditional(x, first, self.read(encoded))
        states = self.dropout(states)
        for layer, norm in zip(self.upper, self.norms, strict=True):
            above, _ = layer(norm(states), first.unsqueeze(0))
            states = states + self.dropout(above)
        return self.join(x, states, contexts)

    def step(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Go on by one embedded piece of each hypothesis [N, K, D]; without dropout."""
        top, contexts = self.conditional.step(x, state.states[0], state.memory)
        states = [top]
        for layer, norm, before in zip(self.upper, self.norms, state.states[1:], strict=True):
            flat, flat_before = norm(top).flatten(0, 1), before.flatten(0, 1)
            _, after = layer(flat.unsqueeze(1), flat_before.unsqueeze(0))
            states.append(after.view(before.shape))
            top = top + states[-1]
        return self.join(x, top, contexts), RecurrentState(states, state.memory)

    def join(self, x: Tensor, states: Tensor, contexts: Tensor) -> Tensor:
        """Make the deep output of input, state and context (Pascanu et al. 2014)."""
        joined = self.output(torch.cat((x, states, contexts), dim=-1))
        output: Tensor = self.dropout(torch.tanh(self.output_norm(joined)))
        return output


class RecurrentNetwork(SequenceToSequence):
    """A GRU encoder-decoder with attention.

    Args:
        embeddings: The embeddings of both sides, of width D.
        dimension: D.
        state_size: R.
        encoder_layers: Layers of the encoder, each with both directions.
        decoder_layers: Layers of the decoder; the first one has the attention.
        dropout: Probability, for embeddings, the outputs of layers and the deep output.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        dimension: int,
        state_size: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__(embeddings)
        self.encoder = RecurrentEncoder(dimension, state_size, encoder_layers, dropout)
        self.decoder = RecurrentDecoder(dimension, state_size, decoder_layers, dropout)
        self.dropout = Dropout(dropout)

    def encode(self, source: Tensor, source_mask: Tensor) -> Encoded:
        """Read the source, as the interface says; the states are [B, S, 2R]."""
        x = self.dropout(self.embeddings.embed_source(source))
        return Encoded(self.encoder(x, source_mask), source_mask)

    def decode(self, encoded: Encoded, target_input: Tensor) -> Tensor:
        """Run the decoder over whole targets, as the interface says."""
        x = self.dropout(self.embeddings.embed_target(target_input))
        outputs: Tensor = self.decoder(x, encoded)
        return outputs

    def start(self, encoded: Encoded) -> RecurrentState:
        """Make the first states and read the sources for the attention."""
        first = self.decoder.begin(encoded).unsqueeze(1)
        layers = 1 + len(self.decoder.upper)
        return RecurrentState([first] * layers, self.decoder.read(encoded))

    def decode_step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, RecurrentState]:
        """Go on by one piece, as the interface says."""
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


def make_gru(input_size: int, state_size: int) -> nn.GRU:
    """Make a GRU of one layer and direction; recurrent matrices are orthogonal at first."""
    layer = nn.GRU(input_size, state_size, batch_first=True)
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
        elif name.startswith("weight_hh"):
            for block in parameter.detach().chunk(3):
                nn.init.orthogonal_(block)
        else:
            nn.init.xavier_uniform_(parameter)
    return layer
