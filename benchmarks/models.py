"""What the networks cost: a training batch, and a step of greedy decoding, on one CPU thread.

The default Transformer and its variants, each differing in one thing, and the recurrent network
take turns on the same batch of random sentences. Times are those that the processor worked, which
others on the machine disturb less. Medians of all turns, with the middle half.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch

from nmtasync.config.schema import ModelConfig
from nmtasync.models.build import build_model
from nmtasync.models.loss import loss_sums

VOCABULARY = 8_000
DEFAULT = ModelConfig()
MODELS = {
    "default": DEFAULT,
    "post-norm": dataclasses.replace(DEFAULT, norm="post"),
    "gelu": dataclasses.replace(DEFAULT, activation="gelu"),
    "swiglu": dataclasses.replace(DEFAULT, activation="swiglu"),
    "rotary": dataclasses.replace(DEFAULT, positions="rotary"),
    "attention dropout 0.1": dataclasses.replace(DEFAULT, attention_dropout=0.1),
    "SSRU decoder": dataclasses.replace(DEFAULT, decoder="ssru"),
    "5+1 layers": dataclasses.replace(DEFAULT, encoder_layers=5, decoder_layers=1),
    "5+1 layers, SSRU": dataclasses.replace(
        DEFAULT, encoder_layers=5, decoder_layers=1, decoder="ssru"
    ),
    "recurrent": dataclasses.replace(DEFAULT, type="rnn"),
}


class Costs:
    """One network on one batch."""

    def __init__(self, config: ModelConfig, sentences: int, pieces: int) -> None:
        torch.manual_seed(1)
        self.model = build_model(config, VOCABULARY, VOCABULARY)
        self.ids = torch.randint(4, VOCABULARY, (sentences, pieces))
        self.training: list[float] = []
        self.decoding: list[float] = []

    def train(self) -> None:
        """Compute a gradient."""
        self.model.train()
        self.model.zero_grad(set_to_none=False)
        start = time.process_time()
        outputs = self.model(self.ids, self.ids > 0, self.ids)
        all_pieces = torch.arange(self.ids.numel())
        smoothed, _ = loss_sums(self.model, outputs, self.ids, all_pieces, 0.1)
        smoothed.backward()  # type: ignore[no-untyped-call]
        self.training.append(time.process_time() - start)

    @torch.no_grad()
    def decode(self) -> None:
        """Go on by as many pieces as the sentences have."""
        self.model.eval()
        state = self.model.start(self.model.encode(self.ids, self.ids > 0))
        start = time.process_time()
        for tokens in self.ids.unbind(1):
            logits, state = self.model.decode_step(tokens, state)
            logits.argmax(1)
        self.decoding.append((time.process_time() - start) / self.ids.shape[1])


def describe(seconds: list[float]) -> str:
    """Give median and middle half, in milliseconds."""
    low, middle, high = (1000 * second for second in statistics.quantiles(seconds, n=4))
    return f"{middle:7.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure all networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--pieces", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    costs = {
        name: Costs(config, arguments.sentences, arguments.pieces)
        for name, config in MODELS.items()
    }
    for turn in range(arguments.turns + 1):
        for one in costs.values():
            one.train()
            one.decode()
            if turn == 0:  # memory is touched for the first time
                one.training.clear()
                one.decoding.clear()
    print(f"{arguments.sentences} sentences of {arguments.pieces} pieces; ms")
    print(f"{'':24}{'training batch':28}one step of decoding")
    for name, one in costs.items():
        print(f"{name:24}{describe(one.training):28}{describe(one.decoding)}")


if __name__ == "__main__":
    main()
