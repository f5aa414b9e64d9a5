"""The server: all shards of the parameter vector, and the only writer of them.

It is a plain object, free of processes and clocks; a driver brings the pushes to it.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.optim.flat import shard_bounds
from nmtasync.optim.smoothing import smooth
from nmtasync.server.messages import Push, Reply
from nmtasync.server.rules.base import Rule, ShardPush
from nmtasync.server.rules.build import build_rule, rule_vectors
from nmtasync.server.sparse import unpack


@dataclass
class Shard:
    """A contiguous slice of the parameters.

    Attributes:
        bounds: Where it lies in the vector.
        rule: What an arriving push does to it.
        version: How many updates it has applied.
    """

    bounds: slice
    rule: Rule
    version: int = 0


class Server:
    """Shards, their optimizers and the moving average.

    Args:
        parameters: [P], the initial parameters; the server goes on in this very tensor.
        num_shards: How many shards to cut it into.
        config: The rule, the optimizer, the schedules, smoothing.
        num_workers: How many workers push.

    Attributes:
        vectors: Everything [P] that belongs to the state, by name: "parameters", the rule's
            vectors, and "average" where smoothing is on. Shards are slices of these.
    """

    def __init__(
        self,
        parameters: Tensor,
        num_shards: int,
        config: Config,
        num_workers: int,
    ) -> None:
        self.smoothing = config.optimizer.smoothing
        self.vectors = {"parameters": parameters}
        for name in rule_vectors(config, num_workers):
            self.vectors[name] = torch.zeros_like(parameters)
        if self.smoothing is not None:
            self.vectors["average"] = parameters.clone()
        self.shards = []
        for bounds in shard_bounds(parameters.numel(), num_shards):
            state = {name: vector[bounds] for name, vector in self.vectors.items()}
            self.shards.append(Shard(bounds, build_rule(config, num_workers, state)))
        self.last_sequences: dict[int, int] = {}
        self._unpacked: Tensor | None = None

    @property
    def parameters(self) -> Tensor:
        """[P], the newest parameters."""
        return self.vectors["parameters"]

    @property
    def versions(self) -> tuple[int, ...]:
        """The version of each shard."""
        return tuple(shard.version for shard in self.shards)

    @property
    def updates(self) -> int:
        """The updates of the shard that has made the most."""
        return max(self.versions)

    def fetch(self, landing: Tensor, worker: int, slot: int = 0) -> tuple[int, ...]:
        """Copy the parameters to the `landing` [P] of a worker's slot; return their versions."""
        landing.copy_(self.parameters)
        for shard in self.shards:
            shard.rule.fetched(worker, slot)
        return self.versions

    def exchange(
        self, push: Push, payload: Tensor, landing: Tensor, *, measure_update: bool = False
    ) -> Reply:
        """Apply a push and hand out the fresh parameters.

        A push that was taken before (its sequence number says so) changes nothing, and neither
        does one without words or whose norm is not finite.

        Args:
            push: The header.
            payload: [P], the gradient summed over the target words; it may be overwritten.
            landing: [P], where the worker wants the parameters.
            measure_update: Whether to measure how far the update moves the parameters, which
                takes a copy of them.
        """
        repeated = push.sequence <= self.last_sequences.get(push.worker, 0)
        usable = push.target_words > 0 and math.isfinite(push.gradient_norm)
        staleness: tuple[int, ...] = ()
        learning_rate: float | None = None
        if not repeated:
            self.last_sequences[push.worker] = push.sequence
        before = self.parameters.clone() if measure_update else None
        if usable and not repeated:
            bases = zip(self.versions, push.base_versions, strict=True)
            staleness = tuple(version - base for version, base in bases)
            if push.num_values is not None:
                payload = unpack(payload, push.num_values, self._dense())
            for shard, late in zip(self.shards, staleness, strict=True):
                learning_rate = self._apply(shard, push, payload[shard.bounds], late)
        versions = self.fetch(landing, push.worker, push.slot)
        applied = usable and not repeated
        norm = None
        if before is not None and learning_rate is not None:
            norm = float(before.sub_(self.parameters).norm())
        return Reply(push.sequence, versions, applied, staleness, learning_rate, norm)

    def _dense(self) -> Tensor:
        """Room [P] to write sparse payloads out; it is no part of the state."""
        if self._unpacked is None:
            self._unpacked = torch.empty_like(self.parameters)
        return self._unpacked

    def _apply(self, shard: Shard, push: Push, gradient: Tensor, staleness: int) -> float | None:
        arriving = ShardPush(
            push.worker, gradient, push.target_words, shard.version, staleness, slot=push.slot
        )
        rate = shard.rule.apply(arriving)
        if rate is None:
            return None
        shard.version += 1
        if self.smoothing is not None:
            average, newest = self.vectors["average"], self.parameters
            smooth(average[shard.bounds], newest[shard.bounds], shard.version, self.smoothing)
        return rate

    def counts(self) -> dict[str, int]:
        """The numbers of the rule that a checkpoint must keep, the same for all shards."""
        return self.shards[0].rule.counts()

    def restore(
        self,
        vectors: dict[str, Tensor],
        updates: int,
        last_sequences: dict[int, int],
        counts: dict[str, int],
    ) -> None:
        """Go on from a saved state, whatever the number of shards was then.

        What another rule or optimizer has saved is not used: this one begins anew.

        Args:
            vectors: [P] by name, as in `vectors`. An average that was not kept begins anew.
            updates: The updates that had been made.
            last_sequences: The last push taken from each worker.
            counts: Those of the rule.
        """
        for name, vector in self.vectors.items():
            fallback = vectors["parameters"] if name == "average" else vector
            vector.copy_(vectors.get(name, fallback))
        for shard in self.shards:
            shard.version = updates
            if counts.keys() == shard.rule.counts().keys():
                shard.rule.restore(counts)
        self.last_sequences = dict(last_sequences)
