"""Target words a second of training on one worker, against plain PyTorch and the machine's ceiling.

Four candidates see the same batches, one after another, several times over:

    ours     a worker and its server, with all that they do for every update
    bare     a plain loop over the same network and loss, with torch's fused Adam on each tensor
    peer     a plain loop over `torch.nn.Transformer` of the same sizes, with the plain loss
    ceiling  matrix products of 2,048 x 2,048, in FLOP/s

With `--precision bf16` ours and the ceiling compute in bf16, bare and peer stay in float32.

The network's FLOPs are those that torch counts in the bare loop: padding is computed, and counted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import describe, prepare
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nmtasync.config.schema import Config, DataConfig, ModelConfig, TrainingConfig
from nmtasync.data.batches import Batch, collate, plan_epoch
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.models.build import build_model
from nmtasync.models.loss import loss_sums
from nmtasync.models.positions import sinusoids
from nmtasync.models.sequence_to_sequence import PAD
from nmtasync.optim.flat import FlatModel
from nmtasync.run_directory import RunDirectory
from nmtasync.server.server import Server
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.precision import compute_type
from nmtasync.worker.worker import Worker

LABEL_SMOOTHING = 0.1
CLIP_NORM = 1.0
BETAS = (0.9, 0.98)


class TorchTransformer(nn.Module):
    """A network as PyTorch's own parts give it, with one matrix for all embeddings."""

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.dimension = config.dimension
        self.embedding = nn.Embedding(vocabulary, config.dimension, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=config.dimension**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            config.dimension,
            config.heads or config.dimension // 64,
            config.encoder_layers,
            config.decoder_layers,
            config.feed_forward or 4 * config.dimension,
            config.dropout,
            norm_first=True,
            batch_first=True,
        )
        self.register_buffer("positions", sinusoids(512, config.dimension))

    def forward(self, batch: Batch) -> Tensor:
        """Compute the logits [B, T, V]."""
        source, target = self.embed(batch.source), self.embed(batch.target_input)
        length = target.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=target.device).triu(1)
        outputs = self.transformer(
            source,
            target,
            tgt_mask=future,
            src_key_padding_mask=~batch.source_mask,
            memory_key_padding_mask=~batch.source_mask,
            tgt_is_causal=True,
        )
        return F.linear(outputs, self.embedding.weight, self.output_bias)

    def embed(self, ids: Tensor) -> Tensor:
        """Look ids up and add positions: [B, S] to [B, S, D]."""
        x = self.embedding(ids) * math.sqrt(self.dimension)
        entered: Tensor = self.dropout(x + self.positions[: ids.shape[1]])
        return entered


class PlainLoop:
    """What anybody would write: loss, backward, clip, Adam.

    Args:
        network: What to train.
        loss: From a batch to the mean loss of its target words.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Batch], Tensor]) -> None:
        self.network = network.train()
        self.loss = loss
        self.adam = torch.optim.Adam(network.parameters(), 1e-4, BETAS, fused=True)

    def train(self, batch: Batch) -> None:
        """Make one update."""
        self.adam.zero_grad()
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.adam.step()


def bare_loop(config: Config, sizes: tuple[int, int], device: str) -> PlainLoop:
    """A loop over our own network and loss."""
    network = build_model(config.model, *sizes).to(device)

    def loss(batch: Batch) -> Tensor:
        outputs = network(batch.source, batch.source_mask, batch.target_input)
        parts = outputs, batch.target, batch.real_targets
        return loss_sums(network, *parts, LABEL_SMOOTHING)[0] / batch.target_words

    return PlainLoop(network, loss)


def peer_loop(config: Config, sizes: tuple[int, int], device: str) -> PlainLoop:
    """A loop over PyTorch's Transformer and cross-entropy."""
    network = TorchTransformer(config.model, sizes[1]).to(device)

    def loss(batch: Batch) -> Tensor:
        logits, target = network(batch).flatten(0, 1), batch.target.flatten()
        return F.cross_entropy(logits, target, ignore_index=PAD, label_smoothing=LABEL_SMOOTHING)

    return PlainLoop(network, loss)


class OurLoop:
    """One worker beside its server, as `nmtasync train` runs them with one device."""

    def __init__(
        self, config: Config, sizes: tuple[int, int], device: str, corpus: ParallelShards
    ) -> None:
        flat = FlatModel(build_model(config.model, *sizes).to(device))
        self.server = Server(flat.parameters.clone(), 1, config, num_workers=1)
        self.worker = Worker(WorkerPlace(0), flat, corpus, config)
        self.worker.versions = self.server.fetch(flat.parameters, 0)

    def train(self, assigned: AssignedBatch) -> None:
        """Compute one push and exchange it."""
        push = self.worker.compute([assigned]).push
        flat = self.worker.flat
        self.worker.versions = self.server.exchange(push, flat.gradients, flat.parameters).versions


def product_rate(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of a square matrix product."""
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    seconds = timed(lambda: left @ right, device)
    return 2 * size**3 / seconds


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds that some work takes, the device's included."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Measure all candidates in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--run", type=Path, help="preprocessed data; else the demo's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--batch-tokens", type=int, default=1200)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(arguments.run) if arguments.run else prepare(Path(directory))
        corpus = ParallelShards.open(run.data / "train")
        vocabularies = VocabularyPair.load(run.vocab)
        sizes = (vocabularies.source.size, vocabularies.target.size)
        config = Config(
            data=DataConfig(batch_tokens=arguments.batch_tokens),
            training=TrainingConfig(precision=arguments.precision),
        )
        lengths = corpus.source_lengths, corpus.target_lengths
        plan = plan_epoch(*lengths, batch_tokens=arguments.batch_tokens, seed=1, epoch=0)
        assigned = [
            AssignedBatch(0, number, sentences)
            for number, sentences in enumerate(plan[: arguments.batches])
        ]
        batches = [collate(corpus, each.sentences).to(device) for each in assigned]
        ours = OurLoop(config, sizes, device, corpus)
        bare, peer = (make(config, sizes, device) for make in (bare_loop, peer_loop))
        candidates: dict[str, Callable[[], object]] = {
            "ours": lambda: [ours.train(each) for each in assigned],
            "bare": lambda: [bare.train(each) for each in batches],
            "peer": lambda: [peer.train(each) for each in batches],
        }
        dtype = compute_type(arguments.precision)
        measure(candidates, batches, arguments.repeats, device, dtype)


def measure(
    candidates: dict[str, Callable[[], object]],
    batches: list[Batch],
    repeats: int,
    device: str,
    dtype: torch.dtype,
) -> None:
    """Let the candidates take turns; print their speeds, ratios and shares of the ceiling."""
    for train in candidates.values():
        train()  # warm
    with FlopCounterMode(display=False) as counter:
        candidates["bare"]()
    words = sum(batch.target_words for batch in batches)
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    ceilings = []
    for _ in range(repeats):
        ceilings.append(max(product_rate(device, dtype) for _ in range(5)))
        for name, train in candidates.items():
            speeds[name].append(words / timed(train, device))
    flops = counter.get_total_flops() / words
    print(f"{words:,} target words in {len(batches)} batches; {flops / 1e6:.1f} MFLOP a word")
    print(f"ceiling: {describe([rate / 1e9 for rate in ceilings])} GFLOP/s")
    print(f"{'':6} {'target words/s':28} {'ours against it':24} of the ceiling")
    for name, rates in speeds.items():
        ratios = [own / other for own, other in zip(speeds["ours"], rates, strict=True)]
        shares = [rate * flops / top for rate, top in zip(rates, ceilings, strict=True)]
        print(
            f"{name:6} {describe(rates):28} {describe(ratios, '{:.2f}'):24} "
            f"{statistics.median(shares):.0%}"
        )


if __name__ == "__main__":
    main()
