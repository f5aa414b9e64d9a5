"""One network, or several that predict together: what a search asks, and what scores given targets.

The prediction of several is the weighted mean of their log probabilities, as in Marian. It is not
normalised again, so that the score of a translation is the weighted mean of its scores under each.
Shapes: R rows, V target vocabulary, B sentences, S source pieces, T target pieces, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nmtasync.data.vocabulary import BOS, EOS, PAD
from nmtasync.decoding.rows import log_sum_exp
from nmtasync.models.sequence_to_sequence import DecoderState, SequenceToSequence

States = list[DecoderState]
"""What the decoder of each network remembers."""

MAX_PIECES = 1000
"""The longest sentences: no model is trained for longer ones, and they would fill the memory."""

_CHUNK_BYTES = 32 << 20


class Ensemble:
    """Networks of the same vocabularies, on one device.

    Args:
        models: One network or more.
        weights: Of each in the mean, above 0; only their ratios matter. None weighs all alike.
        layers: Of each the decoder's layer whose attention aligns, counted from 1; None leaves it
            to the network.
    """

    def __init__(
        self,
        models: Sequence[SequenceToSequence],
        weights: Sequence[float] | None = None,
        layers: Sequence[int | None] | None = None,
    ) -> None:
        given = [1.0] * len(models) if weights is None else list(weights)
        assert models and len(given) == len(models) and min(given) > 0.0
        self.models = list(models)
        self.weights = [weight / sum(given) for weight in given]
        self.layers = [None] * len(models) if layers is None else list(layers)

    @classmethod
    def of(cls, model: SequenceToSequence | Ensemble) -> Ensemble:
        """Return what predicts as a network does, or the ensemble itself."""
        return model if isinstance(model, Ensemble) else cls([model])

    @property
    def max_length(self) -> int | None:
        """The most pieces of a sentence, its end counted, that all can place; None for any."""
        lengths = [model.max_length for model in self.models if model.max_length is not None]
        return min(lengths, default=None)

    @property
    def max_pieces(self) -> int:
        """The most pieces of a sentence, its end not counted, that all can read."""
        return MAX_PIECES if self.max_length is None else min(MAX_PIECES, self.max_length - 1)

    def end_training(self) -> None:
        """Put all networks in evaluation mode."""
        for model in self.models:
            model.eval()

    def start(self, source: Tensor, source_mask: Tensor) -> States:
        """Read the source; arguments and rows of the states as of the networks' interface."""
        return [model.start(model.encode(source, source_mask)) for model in self.models]

    def step(self, tokens: Tensor, states: States) -> tuple[Tensor, Tensor, States]:
        """Read one piece and predict the next.

        Args:
            tokens: The last piece of each row [R].
            states: The states before it, which must not be used again.

        Returns:
            Logits [R, V], what to subtract from them to have log probabilities [R], and the
            states after `tokens`; the former two in float32.
        """
        if len(self.models) == 1:
            logits, after = self.models[0].decode_step(tokens, states[0])
            logits = logits.float()
            return logits, log_sum_exp(logits), [after]
        weighted, states_after = [], []
        for model, weight, state in zip(self.models, self.weights, states, strict=True):
            logits, after = model.decode_step(tokens, state)
            weighted.append(logits.float().log_softmax(1) * weight)
            states_after.append(after)
        total = torch.stack(weighted).sum(0)
        return total, total.new_zeros(total.shape[0]), states_after

    def reorder(self, states: States, rows: Tensor) -> States:
        """Select and repeat rows of the states, as the networks' interface says."""
        pairs = zip(self.models, states, strict=True)
        return [model.reorder(state, rows) for model, state in pairs]

    @torch.no_grad()
    def score(
        self,
        source: Tensor,
        source_mask: Tensor,
        targets: Sequence[Sequence[int]],
        *,
        attention: bool = False,
    ) -> tuple[list[list[float]], Tensor | None]:
        """Compute the log probabilities of given targets, by forced decoding.

        Args:
            source: Source ids, the end of sentence last [B, S].
            source_mask: True where `source` is a real piece [B, S].
            targets: Target ids of each sentence, without the end.
            attention: Whether it is asked for, too.

        Returns:
            Of each sentence the log probability of each piece in nats, its end last; and the
            weights with which the decoder attends to the source where it predicts each piece,
            each the mean of the networks [B, T, S], or None.
        """
        longest = 1 + max(len(ids) for ids in targets)
        ended = [[*ids, EOS] + [PAD] * (longest - 1 - len(ids)) for ids in targets]
        begun = [[BOS, *ids] + [PAD] * (longest - 1 - len(ids)) for ids in targets]
        target, target_input = (torch.tensor(x, device=source.device) for x in (ended, begun))
        log_probabilities = torch.zeros(target.shape, dtype=torch.float64, device=source.device)
        looked = None
        for model, weight, layer in zip(self.models, self.weights, self.layers, strict=True):
            encoded = model.encode(source, source_mask)
            if attention:
                outputs, log_weights = model.decode_with_attention(encoded, target_input, layer)
                share = log_weights.exp() * weight
                looked = share if looked is None else looked + share
            else:
                outputs = model.decode(encoded, target_input)
            log_probabilities += weight * _of_targets(model, outputs, target)
        rows = log_probabilities.tolist()
        return [row[: len(ids) + 1] for row, ids in zip(rows, targets, strict=True)], looked


def _of_targets(model: SequenceToSequence, outputs: Tensor, target: Tensor) -> Tensor:
    """Compute the log probabilities of targets from the decoder's outputs [B, T, D], in float64.

    It is done in chunks, so that the logits of all pieces are never held.
    """
    flat, wanted = outputs.flatten(0, 1), target.flatten()
    vocabulary = model.embeddings.output_weight.shape[0]
    rows = max(1, _CHUNK_BYTES // (4 * vocabulary))
    parts = []
    for start in range(0, flat.shape[0], rows):
        logits = model.logits(flat[start : start + rows]).float()
        chosen = logits.gather(1, wanted[start : start + rows, None]).squeeze(1)
        parts.append((chosen - logits.logsumexp(1)).double())
    return torch.cat(parts).view(target.shape)
