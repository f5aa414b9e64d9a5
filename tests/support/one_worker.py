"""One worker and its server in this process, and the plain loop that it must equal."""

from __future__ import annotations

import torch
from torch import nn

from nmtasync.config.schema import Config
from nmtasync.data.batches import collate, plan_epoch
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.models.loss import loss_sums
from nmtasync.optim.flat import FlatModel
from nmtasync.optim.schedules import learning_rate_at
from nmtasync.run_directory import RunDirectory
from nmtasync.server.server import Server
from nmtasync.worker.gradient import batch_seed
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import Worker

VOCABULARY = 46


def toy_model(config: Config, device: str = "cpu") -> nn.Module:
    torch.manual_seed(5)
    return build_model(config.model, VOCABULARY, VOCABULARY).to(device)


class OneWorker:
    """A server and a worker in this process."""

    def __init__(
        self, run: RunDirectory, config: Config, num_shards: int = 1, device: str = "cpu"
    ) -> None:
        self.flat = FlatModel(toy_model(config, device))
        corpus = ParallelShards.open(run.data / "train")
        self.server = Server(self.flat.parameters.clone(), num_shards, config, num_workers=1)
        self.worker = Worker(WorkerPlace(0), self.flat, corpus, config)
        self.worker.versions = self.server.fetch(self.flat.parameters, 0)
        self.batches = assigned_batches(corpus, config)
        self.delay = config.asynchronous.optimizer_delay

    def push(self) -> None:
        window = [next(self.batches) for _ in range(self.delay)]
        push = self.worker.compute(window).push
        reply = self.server.exchange(push, self.flat.gradients, self.flat.parameters)
        self.worker.versions = reply.versions


def assigned_batches(corpus: ParallelShards, config: Config):
    lengths = corpus.source_lengths, corpus.target_lengths
    plan = plan_epoch(
        *lengths, batch_tokens=config.data.batch_tokens, seed=config.training.seed, epoch=0
    )
    return (AssignedBatch(0, index, sentences) for index, sentences in enumerate(plan))


def plain_loop(run: RunDirectory, config: Config, num_updates: int, device: str = "cpu"):
    """Train as anybody would with torch's fused Adam on one vector; yield it after each update."""
    flat = FlatModel(toy_model(config, device))
    flat.model.train()
    vector = nn.Parameter(flat.parameters)
    epsilon, clip_norm = config.optimizer.epsilon, config.optimizer.clip_norm
    adam = torch.optim.Adam([vector], betas=(0.9, 0.98), eps=epsilon, fused=True)
    corpus = ParallelShards.open(run.data / "train")
    batches = assigned_batches(corpus, config)
    for update in range(1, num_updates + 1):
        flat.gradients.zero_()
        words = 0
        for _ in range(config.asynchronous.optimizer_delay):
            assigned = next(batches)
            batch = collate(corpus, assigned.sentences).to(device)
            torch.manual_seed(batch_seed(config.training.seed, 0, assigned.index))
            outputs = flat.model(batch.source, batch.source_mask, batch.target_input)
            parts = outputs, batch.target, batch.real_targets
            loss, _ = loss_sums(flat.model, *parts, config.training.label_smoothing)
            loss.backward()
            words += batch.target_words
        norm = float(flat.gradients.norm()) / words
        if clip_norm is not None:
            assert norm > clip_norm, "or this tests no clipping"
            flat.gradients.mul_(clip_norm / norm)
        vector.grad = flat.gradients / words
        adam.param_groups[0]["lr"] = learning_rate_at(update, words, config.schedule)
        adam.step()
        yield update, vector.data
