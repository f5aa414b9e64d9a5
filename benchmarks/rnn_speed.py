"""Target words a second of the recurrent network, and of the same one written plainly.

The peer is what one would write with PyTorch's modules: `nn.GRU` on packed sources, a loop of
`nn.GRUCell` and attention over the target pieces, autograd, `F.cross_entropy` on all logits. It is
given our parameters, and loss and gradients are compared before anything is timed. Each
batch is computed by both in turn, forwards and backwards.

    python benchmarks/rnn_speed.py --run RUN --threads 1 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import describe, prepare
from torch import Tensor, nn

from nmtasync.config.schema import ModelConfig
from nmtasync.data.batches import Batch, collate, plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import PAD
from nmtasync.models.build import build_model
from nmtasync.models.gru import GatedLayer
from nmtasync.models.loss import loss_sums
from nmtasync.models.rnn import RecurrentNetwork
from nmtasync.run_directory import RunDirectory

LABEL_SMOOTHING = 0.1


class Peer(nn.Module):
    """A bidirectional GRU and a conditional GRU with attention, with the parameters of ours."""

    def __init__(self, ours: RecurrentNetwork) -> None:
        super().__init__()
        weight = ours.embeddings.target
        dimension, size = weight.shape[1], ours.decoder.conditional.energy.shape[0]
        conditional = ours.decoder.conditional
        self.scale = ours.embeddings.scale
        self.embedding = nn.Embedding.from_pretrained(weight.detach().clone(), freeze=False)
        self.output_bias = nn.Parameter(ours.embeddings.output_bias.detach().clone())
        self.encoder = nn.GRU(dimension, size, batch_first=True, bidirectional=True)
        self.initial = nn.Linear(2 * size, size)
        self.first = nn.GRUCell(dimension, size)
        self.query = nn.Linear(size, size)
        self.keys = nn.Linear(2 * size, size, bias=False)
        self.energy = nn.Linear(size, 1, bias=False)
        self.second = nn.GRUCell(2 * size, size)
        self.output = nn.Linear(dimension + 3 * size, dimension)
        there, back = ours.encoder.forwards[0], ours.encoder.backwards[0]
        assert isinstance(there, GatedLayer) and isinstance(back, GatedLayer)
        for layer, direction in ((there, ""), (back, "_reverse")):
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                _copy(getattr(layer, name), getattr(self.encoder, name + direction))
        for theirs, mine in (
            (ours.decoder.initial, self.initial),
            (conditional.query, self.query),
            (conditional.keys, self.keys),
            (ours.decoder.output, self.output),
        ):
            mine.load_state_dict(theirs.state_dict())
        for projection, inputs, cell in (
            (conditional.first, conditional.inputs, self.first),
            (conditional.second, conditional.gates, self.second),
        ):
            _copy(projection.weight, cell.weight_hh)
            _copy(projection.bias, cell.bias_hh)
            _copy(inputs.weight, cell.weight_ih)
            nn.init.zeros_(cell.bias_ih)
        _copy(conditional.energy[None], self.energy.weight)

    def loss(self, batch: Batch) -> Tensor:
        """Sum the smoothed loss over the target words."""
        mask = batch.source_mask
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(batch.source) * self.scale,
            mask.sum(1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        encoded, _ = nn.utils.rnn.pad_packed_sequence(self.encoder(packed)[0], batch_first=True)
        state = torch.tanh(self.initial(encoded.sum(1) / mask.sum(1, keepdim=True)))
        keys = self.keys(encoded)
        x = self.embedding(batch.target_input) * self.scale
        states, contexts = [], []
        for position in range(x.shape[1]):
            middle = self.first(x[:, position], state)
            hidden = torch.tanh(keys + self.query(middle).unsqueeze(1))
            energies = self.energy(hidden).squeeze(2).masked_fill(~mask, float("-inf"))
            context = torch.bmm(energies.softmax(1).unsqueeze(1), encoded).squeeze(1)
            state = self.second(context, middle)
            states.append(state)
            contexts.append(context)
        joined = torch.cat((x, torch.stack(states, 1), torch.stack(contexts, 1)), dim=2)
        outputs = torch.tanh(self.output(joined))
        logits = F.linear(outputs, self.embedding.weight, self.output_bias)
        return F.cross_entropy(
            logits.flatten(0, 1),
            batch.target.flatten(),
            ignore_index=PAD,
            label_smoothing=LABEL_SMOOTHING,
            reduction="sum",
        )


def _copy(source: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


def read_batches(run: RunDirectory, batch_tokens: int, count: int) -> list[Batch]:
    """Read the first batches of an epoch."""
    shards = ParallelShards.open(run.data / "train")
    lengths = np.diff(shards.source_offsets), np.diff(shards.target_offsets)
    plan = plan_epoch(*lengths, batch_tokens=batch_tokens, seed=1, epoch=1)
    return [collate(shards, ids) for ids in plan[:count]]


def build(
    dimension: int, state_dimension: int, vocabulary: int, layer_normalization: str
) -> RecurrentNetwork:
    """Build a network of one layer on either side, without dropout."""
    torch.manual_seed(1)
    config = ModelConfig(
        type="rnn",
        dimension=dimension,
        state_dimension=state_dimension,
        encoder_layers=1,
        decoder_layers=1,
        layer_normalization=layer_normalization,
        dropout=0.0,
    )
    network = build_model(config, vocabulary, vocabulary)
    assert isinstance(network, RecurrentNetwork)
    return network


def our_loss(model: RecurrentNetwork, batch: Batch) -> Tensor:
    """Sum the smoothed loss over the target words, as training does."""
    outputs = model(batch.source, batch.source_mask, batch.target_input)
    return loss_sums(model, outputs, batch.target, batch.real_targets, LABEL_SMOOTHING)[0]


def check_equal(ours: RecurrentNetwork, peer: Peer, batch: Batch) -> None:
    """Make sure that both compute the same loss and gradients."""
    loss, peer_loss = our_loss(ours, batch), peer.loss(batch)
    torch.testing.assert_close(loss, peer_loss, rtol=1e-5, atol=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    peer_loss.backward()  # type: ignore[no-untyped-call]
    for parameter, other in (
        (ours.embeddings.target, peer.embedding.weight),
        (ours.decoder.conditional.first.weight, peer.first.weight_hh),
        (ours.decoder.conditional.gates.weight, peer.second.weight_ih),
    ):
        assert parameter.grad is not None and other.grad is not None
        tolerance = 1e-4 * float(other.grad.abs().max())
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=tolerance)


def measure(
    candidates: dict[str, Callable[[Batch], Tensor]], batches: list[Batch], repeats: int
) -> dict[str, list[float]]:
    """Time the candidates batch by batch in turn; target words a second of each repeat."""
    words = sum(batch.target_words for batch in batches)
    for loss in candidates.values():
        loss(batches[0]).backward()  # type: ignore[no-untyped-call]
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        seconds = dict.fromkeys(candidates, 0.0)
        for batch in batches:
            for name, loss in candidates.items():
                begin = time.perf_counter()
                loss(batch).backward()  # type: ignore[no-untyped-call]
                seconds[name] += time.perf_counter() - begin
        for name, elapsed in seconds.items():
            speeds[name].append(words / elapsed)
    return speeds


def main() -> None:
    """Measure with each number of threads and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--state-dimension", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=8000, help="pieces, joint")
    parser.add_argument("--batch-tokens", type=int, default=1200)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(arguments.run) if arguments.run else prepare(Path(directory))
        batches = read_batches(run, arguments.batch_tokens, arguments.batches)
    sizes = (arguments.dimension, arguments.state_dimension, arguments.vocabulary)
    plain, normalised = build(*sizes, "none"), build(*sizes, "cells")
    peer = Peer(plain)
    check_equal(plain, peer, batches[0])
    candidates: dict[str, Callable[[Batch], Tensor]] = {
        "peer": peer.loss,
        "ours": lambda batch: our_loss(plain, batch),
        "ours, normalised cells": lambda batch: our_loss(normalised, batch),
    }
    print(f"{'threads':8} {'':24} {'target words/s':26} times the peer")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        speeds = measure(candidates, batches, arguments.repeats)
        for name, values in speeds.items():
            ratios = [value / other for value, other in zip(values, speeds["peer"], strict=True)]
            columns = describe(values, "{:,.0f}"), describe(ratios, "{:.2f}")
            print(f"{threads:<8} {name:24} {columns[0]:26} {columns[1]}", flush=True)


if __name__ == "__main__":
    main()
