"""The server: all shards of the parameter vector, and the only writer of them.

A plain object, free of processes, that decides nothing by a clock; drivers bring the pushes to it.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.optim.flat import shard_bounds
from nmtasync.server.measurements import Measurements
from nmtasync.server.messages import Push, Reply
from nmtasync.server.ownership import own_shards
from nmtasync.server.rules.base import RuleSetup, ShardPush
from nmtasync.server.shard import Shard
from nmtasync.server.sharded_vector import ShardedState
from nmtasync.server.sparse import Unpacker
from nmtasync.server.streams import ServerStreams
from nmtasync.server.wire import Wire


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
        places = shard_bounds(parameters.numel(), num_shards)
        homes = devices and [devices[index % len(devices)] for index in range(num_shards)]
        self._state = ShardedState(parameters, places, homes)
        self.shards = []
        for index, bounds in enumerate(places):
            piece = functools.partial(self._state.piece, index)
            self.shards.append(Shard(bounds, RuleSetup(config, num_workers, piece)))
        self._state.copy_from({"parameters": parameters})
        self.last_sequences: dict[int, int] = {}
        self.num_workers = num_workers
        self.measured = Measurements(config, num_workers, self._state, num_shards)
        self._streams = ServerStreams(devices or ())
        self._unpacker = Unpacker()
        self.wire = Wire(config.asynchronous.exchange_precision)
        self._all_travel = config.asynchronous.own_shard != "batch"

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The state [P] by name: "parameters" and the rest; copies if shards lie apart."""
        return self._state.gather()

    @property
    def parameters(self) -> Tensor:
        """[P], the newest parameters; a copy where shards have memory of their own."""
        return self._state.vectors["parameters"].gather()

    @property
    def size(self) -> int:
        """P."""
        return int(self.shards[-1].bounds.stop)

    @property
    def names(self) -> list[str]:
        """The names of all `vectors`."""
        return list(self._state.vectors)

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

    def exchanged_elements(self, worker: int) -> int:
        """How many parameters travel between a worker and the server.

        Where single batches change a worker's own shards, these lie with it.
        """
        if self._all_travel:
            return self.size
        own = own_shards(worker, self.num_workers, len(self.shards))
        return self.size - sum(self.shards[shard].parameters.numel() for shard in own)

    def fetch(self, landing: Tensor, worker: int, slot: int = 0) -> tuple[int, ...]:
        """Copy the parameters to the `landing` [P] of a worker's slot; return their versions.

        They are rounded as they travel, by `asynchronous.exchange_precision`.
        """
        with self._streams.completed():
            return self._hand_out(landing, worker, slot)

    def _hand_out(self, landing: Tensor, worker: int, slot: int) -> tuple[int, ...]:
        self._state.vectors["parameters"].copy_to(landing, wire=self.wire)
        for shard in self.shards:
            shard.rule.fetched(worker, slot)
        return self.versions

    def exchange(
        self,
        push: Push,
        payload: Tensor,
        landing: Tensor,
        *,
        measure_update: bool = False,
        within_window: bool = False,
    ) -> Reply:
        """Apply a push and hand out the fresh parameters.

        A push that was taken before, by its sequence number, changes nothing; nor does one
        without words or whose norm is not finite.

        Args:
            push: The header.
            payload: [P], the gradient summed over the target words; the slices of the push's
                shards count, and may be overwritten.
            landing: [P], where the worker wants the parameters.
            measure_update: Whether to measure how far the update moves the parameters, which
                takes a copy of them.
            within_window: Whether the worker's window goes on, so that it wants just the shards
                of the push.
        """
        with self._streams.completed():
            reply = self._apply(push, payload, measure_update)
            if within_window:
                self._state.vectors["parameters"].copy_to(landing, push.shards)
            else:
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
        shards = {index: self.shards[index] for index in indices}
        staleness = tuple(s.version - push.base_versions[i] for i, s in shards.items())
        if push.num_values is not None:
            payload = self._unpacker.unpack(payload, push.num_values)
        pieces = {i: payload[s.bounds].to(s.parameters.device) for i, s in shards.items()}
        usual, rate = self.measured.see(push, pieces, staleness), None
        for (index, shard), late in zip(shards.items(), staleness, strict=True):
            arriving = ShardPush(
                push.worker,
                pieces[index],
                push.target_words,
                shard.version,
                late,
                self.measured.seen_words,
                progress=push.progress,
                slot=push.slot,
                usual_staleness=usual,
            )
            rate = shard.apply(arriving)
        if rate is None or before is None:
            return Reply(self.versions, True, staleness, rate, shards=push.shards)
        norm = float(before.sub_(self.parameters).norm())
        return Reply(self.versions, True, staleness, rate, norm, push.shards)

    def note_update(self, learning_rate: float | None, target_words: int) -> Reply:
        """Count an update that the owners of the shards have made by themselves, if they have."""
        if learning_rate is None:
            return Reply(self.versions)
        self.measured.seen_words += target_words
        for shard in self.shards:
            shard.version += 1
        return Reply(self.versions, True, (0,) * len(self.shards), learning_rate)

    def write_back(self, worker: int, replica: Tensor) -> None:
        """Write a worker's replica [P] over its own shards, and over what others pushed there.

        This is no update: versions, the optimizers' state and the average stay.

        Source: the public code of Bogoychev et al. 2018 (arXiv 1808.08859).
        """
        with self._streams.completed():
            for index in own_shards(worker, self.num_workers, len(self.shards)):
                shard = self.shards[index]
                shard.parameters.copy_(replica[shard.bounds])

    def copy_vectors(self, targets: dict[str, Tensor]) -> None:
        """Copy each of `vectors` to the target [P] of its name."""
        with self._streams.completed():
            self._state.copy_to(targets)

    def numbers(self) -> dict[str, int]:
        """The numbers of the rule that a checkpoint must keep, the same for all shards."""
        return self.shards[0].rule.numbers()

    def restore(
        self,
        vectors: dict[str, Tensor],
        versions: Sequence[int],
        last_sequences: dict[int, int],
        numbers: dict[str, int],
        measured: Mapping[str, Any],
    ) -> None:
        """Go on from a saved state; what another rule or optimizer has saved is not used.

        Args:
            vectors: [P] by name, as in `vectors`. An average that was not kept begins anew.
            versions: Of the shards then; of others, each has the updates of the furthest.
            last_sequences: The last push taken from each worker.
            numbers: Those of the rule.
            measured: Of `Measurements`; measuring begins anew if it is empty.
        """
        with self._streams.completed():
            self._state.copy_from(vectors)
        alike = len(versions) == len(self.shards)
        for index, shard in enumerate(self.shards):
            shard.version = versions[index] if alike else max(versions, default=0)
            if numbers.keys() == shard.rule.numbers().keys():
                shard.rule.restore(numbers)
        self.last_sequences = dict(last_sequences)
        self.measured.restore(measured)
