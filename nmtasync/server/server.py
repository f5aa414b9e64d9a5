"""The server: all shards of the parameter vector, and the only writer of them.

A plain object, free of processes, that decides nothing by a clock; drivers bring the pushes to it.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.optim.flat import shard_bounds
from nmtasync.server.decaying_mean import DecayingMean
from nmtasync.server.messages import Push, Reply
from nmtasync.server.noise_scale import NoiseScale
from nmtasync.server.ownership import own_shards
from nmtasync.server.rules.base import RuleSetup, ShardPush
from nmtasync.server.shard import Shard
from nmtasync.server.sharded_vector import ShardedVector
from nmtasync.server.sparse import unpack
from nmtasync.server.streams import ServerStreams

USUAL_PUSHES = 200
"""How late pushes usually are is a mean over so many."""


class Server:
    """Shards, their optimizers and the moving average.

    Args:
        parameters: [P], the initial parameters; the server goes on in this very tensor, unless
            `devices` are given.
        num_shards: How many shards to cut it into.
        config: The rule, the optimizer, the schedules, smoothing.
        num_workers: How many workers push.
        devices: Where to spread the shards, shard i on device i modulo their number; each then
            has memory of its own. None: shards are slices of vectors beside `parameters`.
    """

    def __init__(
        self,
        parameters: Tensor,
        num_shards: int,
        config: Config,
        num_workers: int,
        devices: Sequence[str] | None = None,
    ) -> None:
        self._places = shard_bounds(parameters.numel(), num_shards)
        self._homes = devices and [devices[index % len(devices)] for index in range(num_shards)]
        self._state = {"parameters": ShardedVector(parameters, self._places, self._homes)}
        self.shards = []
        for index, bounds in enumerate(self._places):
            piece = functools.partial(self._piece, parameters, index)
            self.shards.append(Shard(bounds, RuleSetup(config, num_workers, piece)))
        if "average" in self._state:
            self._state["average"].copy_from(parameters)
        self.last_sequences: dict[int, int] = {}
        self.num_workers = num_workers
        self.noise = NoiseScale.of(config, num_workers, self._new_room)
        self._lateness = DecayingMean(USUAL_PUSHES)
        self._streams = ServerStreams(devices or ())
        self._unpacked: dict[torch.device, Tensor] = {}

    def _piece(self, like: Tensor, shard: int, name: str) -> Tensor:
        """Return a shard's piece [n] of a vector, which is added, of zeros, if it is not there."""
        if name not in self._state:
            self._state[name] = ShardedVector(torch.zeros_like(like), self._places, self._homes)
        return self._state[name].pieces[shard]

    def _new_room(self, kept: bool) -> list[Tensor]:
        """Allocate [n] for each shard, in a vector of the state if it is to be kept."""
        like = [shard.parameters for shard in self.shards]
        if not kept:
            return [torch.empty_like(each) for each in like]
        whole = self._state["parameters"].gather()
        return [self._piece(whole, index, "noisy_gradient") for index in range(len(like))]

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The state [P] by name: "parameters" and the rest; copies if shards lie apart."""
        return {name: vector.gather() for name, vector in self._state.items()}

    @property
    def parameters(self) -> Tensor:
        """[P], the newest parameters; a copy where shards have memory of their own."""
        return self._state["parameters"].gather()

    @property
    def size(self) -> int:
        """P."""
        return int(self.shards[-1].bounds.stop)

    @property
    def names(self) -> list[str]:
        """The names of all `vectors`."""
        return list(self._state)

    @property
    def devices(self) -> set[torch.device]:
        """Where the shards lie."""
        return {shard.parameters.device for shard in self.shards}

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
        with self._streams.completed():
            return self._hand_out(landing, worker, slot)

    def exchange_own(self, push: Push, payload: Tensor, landing: Tensor) -> Reply:
        """Apply a push for some shards, and hand out just these.

        Args:
            push: The header, with the shards.
            payload: [P], the gradient summed over the target words; only what lies in these
                shards counts, and may be overwritten.
            landing: [P], where the worker wants these shards' parameters.
        """
        with self._streams.completed():
            reply = self._apply(push, payload, measure_update=False)
            self._state["parameters"].copy_to(landing, push.shards)
        return reply

    def _hand_out(self, landing: Tensor, worker: int, slot: int) -> tuple[int, ...]:
        self._state["parameters"].copy_to(landing)
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
        with self._streams.completed():
            reply = self._apply(push, payload, measure_update)
            self._hand_out(landing, push.worker, push.slot)
        return reply

    def _apply(self, push: Push, payload: Tensor, measure_update: bool) -> Reply:
        if push.sequence <= self.last_sequences.get(push.worker, 0):
            return Reply(self.versions)
        self.last_sequences[push.worker] = push.sequence
        if push.target_words == 0 or not math.isfinite(push.gradient_norm):
            return Reply(self.versions)
        before = self.parameters.clone() if measure_update else None
        indices = range(len(self.shards)) if push.shards is None else push.shards
        shards = [self.shards[index] for index in indices]
        staleness = tuple(self.shards[i].version - push.base_versions[i] for i in indices)
        if push.num_values is not None:
            payload = unpack(payload, push.num_values, self._dense_like(payload))
        pieces = [payload[shard.bounds].to(shard.parameters.device) for shard in shards]
        self.noise.see(push, dict(zip(indices, pieces, strict=True)))
        if shards:
            share = len(shards) / len(self.shards)
            self._lateness.add(sum(staleness) / len(staleness), share)
        rate = None
        for shard, piece, late in zip(shards, pieces, staleness, strict=True):
            arriving = ShardPush(
                push.worker,
                piece,
                push.target_words,
                shard.version,
                late,
                progress=push.progress,
                slot=push.slot,
                usual_staleness=self._lateness.value,
            )
            rate = shard.apply(arriving)
        norm = None
        if rate is not None and before is not None:
            norm = float(before.sub_(self.parameters).norm())
        return Reply(self.versions, True, staleness, rate, norm, push.shards)

    def _dense_like(self, payload: Tensor) -> Tensor:
        """Room [P] beside a sparse payload to write it out; it is no part of the state."""
        if payload.device not in self._unpacked:
            self._unpacked[payload.device] = torch.empty_like(payload)
        return self._unpacked[payload.device]

    def note_update(self, learning_rate: float | None) -> Reply:
        """Count an update that the owners of the shards have made by themselves, if they have."""
        if learning_rate is None:
            return Reply(self.versions)
        for shard in self.shards:
            shard.version += 1
        return Reply(self.versions, True, (0,) * len(self.shards), learning_rate)

    def write_back(self, worker: int, replica: Tensor) -> None:
        """Write a worker's replica [P] over the worker's own shards.

        What others have pushed there since the worker fetched is lost. This is no update:
        the version stays, and so do the optimizer's state and the average.

        Source: the public code of Bogoychev et al. 2018 (arXiv 1808.08859).
        """
        with self._streams.completed():
            for index in own_shards(worker, self.num_workers, len(self.shards)):
                shard = self.shards[index]
                shard.parameters.copy_(replica[shard.bounds])

    def copy_vectors(self, targets: dict[str, Tensor]) -> None:
        """Copy each of `vectors` to the target [P] of its name."""
        with self._streams.completed():
            for name, vector in self._state.items():
                vector.copy_to(targets[name])

    def numbers(self) -> dict[str, int]:
        """The numbers of the rule that a checkpoint must keep, the same for all shards."""
        return self.shards[0].rule.numbers()

    def measured(self) -> dict[str, Any]:
        """What has been measured of the pushes so far, for a checkpoint."""
        return {"lateness": asdict(self._lateness), "noise": self.noise.to_json()}

    def restore(
        self,
        vectors: dict[str, Tensor],
        versions: Sequence[int],
        last_sequences: dict[int, int],
        numbers: dict[str, int],
        measured: Mapping[str, Any],
    ) -> None:
        """Go on from a saved state, whatever the number of shards was then.

        What another rule or optimizer has saved is not used: this one begins anew.

        Args:
            vectors: [P] by name, as in `vectors`. An average that was not kept begins anew.
            versions: Of the shards then; of other shards now, each has the updates of the one
                that had made the most.
            last_sequences: The last push taken from each worker.
            numbers: Those of the rule.
            measured: As of `measured`; measuring begins anew if it is empty.
        """
        with self._streams.completed():
            for name, vector in self._state.items():
                if name in vectors:
                    vector.copy_from(vectors[name])
                elif name == "average":
                    vector.copy_from(vectors["parameters"])
        alike = len(versions) == len(self.shards)
        for index, shard in enumerate(self.shards):
            shard.version = versions[index] if alike else max(versions, default=0)
            if numbers.keys() == shard.rule.numbers().keys():
                shard.rule.restore(numbers)
        self.last_sequences = dict(last_sequences)
        if measured:
            self._lateness = DecayingMean(**measured["lateness"])
            self.noise.restore(measured["noise"])
