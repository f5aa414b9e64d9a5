"""Synchronous training: the baseline. The gradients of all ranks make one update.

Each rank is a process with a device; the main process hands out windows of batches, counts, and
has snapshots saved. The state lies in shared memory, where the ranks update it.

When a rank dies, the round is lost: all ranks are ended and started again, and its windows are
drawn again. They go on from the state in shared memory if it is whole, which it is on CPUs except
in the moment of an update; otherwise from the last snapshot, whose copy in memory the validator
reads: then what came after it is computed again.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from nmtasync.data.cursor import AssignedBatch
from nmtasync.errors import TrainingError
from nmtasync.machine.processes import Failure, cause_of_death, process_context
from nmtasync.server.messages import Push, Reply
from nmtasync.server.transport import share, shared_vector
from nmtasync.training.session import Session
from nmtasync.training.synchronous.rank import Round, RoundDone
from nmtasync.training.synchronous.rank_process import (
    Publish,
    Published,
    RankSetup,
    Stranded,
    run_rank,
)
from nmtasync.training.validation.validator_client import ValidatorClient

POLL_SECONDS = 0.2
"""How often a rank that only lost the others is looked at while its cause has not shown."""

STRANDED_SECONDS = 10.0
"""A rank that lost the others is itself the cause if no other has died for so long."""


def works_in_shared_memory(devices: list[str]) -> bool:
    """Whether the ranks compute with vectors in shared memory, or with copies on their devices."""
    return devices[0] == "cpu"


@dataclass
class RankHandle:
    """A rank as the main process sees it.

    Attributes:
        index: Which rank it is.
        process: The process that is the rank now.
        connection: This end of its pipe.
    """

    index: int
    process: BaseProcess
    connection: Connection


class _RankLostError(Exception):
    """A rank has died.

    Args:
        rank: Which.
        last_words: The traceback that it left, if any.
    """

    def __init__(self, rank: RankHandle, last_words: str) -> None:
        super().__init__(rank.index)
        self.rank = rank
        self.last_words = last_words


class SynchronousDriver:
    """Runs all ranks to the end, round by round.

    Args:
        session: The run.
        devices: One for each rank.
        threads: CPU threads of each rank.
        vocabulary_sizes: Of source and target.
        rank_batches: Batches that each rank had computed before, by its index.
    """

    def __init__(
        self,
        session: Session,
        devices: list[str],
        threads: int,
        vocabulary_sizes: tuple[int, int],
        rank_batches: dict[int, int],
    ) -> None:
        self.session = session
        self.devices = devices
        self.threads = threads
        self.vocabulary_sizes = vocabulary_sizes
        self.batches = {index: rank_batches.get(index, 0) for index in range(len(devices))}
        self.context = process_context()
        # all memory before the first process, so that too little of it leaves none behind
        for vector in session.server.vectors.values():
            share(vector)
        size = session.server.size
        self.in_place = works_in_shared_memory(devices)
        self.gradients = [shared_vector(size) for _ in devices] if self.in_place else []
        self.marks = share(torch.zeros(len(devices), dtype=torch.int64))
        self.validator = ValidatorClient(session, devices[0], vocabulary_sizes, self.context)
        session.server.copy_vectors(self.validator.vectors)
        self._kept = session.state(to_validate=False, workers=self._rank_counts())
        self.directory = tempfile.TemporaryDirectory(prefix="nmtasync-")
        self.generation = 0
        self.rounds = 0
        self.deaths = 0
        self.upcoming: list[list[AssignedBatch]] | None = None
        self.round_under_way = False
        self.ranks: list[RankHandle] = []

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        while (reason := self.session.stop_reason()) is None:
            try:
                if not self.ranks:
                    self._start()
                self._count(self._play_round())
                to_validate = self.session.validation_due()
                if not self.validator.busy and (to_validate or self.session.save_due()):
                    self._publish()
                    self._request(to_validate=to_validate)
            except _RankLostError as loss:
                self._recover(loss)
        return reason

    def _start(self) -> None:
        self.generation += 1
        self.marks.fill_(self.session.server.updates)
        for index in range(len(self.devices)):
            setup = RankSetup(
                index=index,
                devices=self.devices,
                threads=self.threads,
                run=self.session.run,
                config=self.session.config,
                vocabulary_sizes=self.vocabulary_sizes,
                vectors=self.session.server.vectors,
                marks=self.marks,
                gradients=self.gradients,
                rendezvous=str(Path(self.directory.name) / str(self.generation)),
            )
            here, there = self.context.Pipe()
            process = self.context.Process(
                target=run_rank, args=(setup, there), name=f"rank {index}", daemon=True
            )
            process.start()
            there.close()  # so that the pipe ends when the rank does
            self.ranks.append(RankHandle(index, process, here))

    def _play_round(self) -> list[RoundDone]:
        """Let all ranks make one update together, and draw the windows of the next one."""
        windows = self.upcoming if self.upcoming is not None else self._draw()
        self.rounds += 1
        self.upcoming = self._draw()
        self.round_under_way = True
        share_done = self.session.share_done()
        for rank, window, upcoming in zip(self.ranks, windows, self.upcoming, strict=True):
            self._send(rank, Round(self.session.server.updates, window, upcoming, share_done))
        answers = self._collect()
        self.round_under_way = False
        done = [answers[rank.index] for rank in self.ranks]
        assert all(isinstance(answer, RoundDone) for answer in done)
        for holder in self._holders(self.rounds - 1):
            self.session.cursor.finish(holder)
        for index, window in enumerate(windows):
            self.batches[index] += len(window)
        self.deaths = 0
        return done

    def _holders(self, number: int) -> list[int]:
        """Under whose names the cursor keeps the windows of a round: two rounds are under way."""
        first = len(self.devices) * (number % 2)
        return list(range(first, first + len(self.devices)))

    def _draw(self) -> list[list[AssignedBatch]]:
        return [self.session.next_window(holder) for holder in self._holders(self.rounds)]

    def _send(self, rank: RankHandle, message: Round | Publish) -> None:
        try:
            rank.connection.send(message)
        except OSError:
            raise _RankLostError(rank, "") from None

    def _collect(self) -> dict[int, Any]:
        """Wait for one answer of each rank.

        Raises:
            _RankLostError: A rank has died.
        """
        answers: dict[int, Any] = {}
        stranded: _RankLostError | None = None
        deadline = 0.0
        while len(answers) < len(self.ranks):
            waiting = {rank.connection: rank for rank in self.ranks if rank.index not in answers}
            for connection in wait([*waiting, self.validator.connection], POLL_SECONDS):
                if connection is self.validator.connection:
                    self.validator.receive()
                    continue
                assert isinstance(connection, Connection)
                rank = waiting[connection]
                answer = self._receive(rank)
                if not isinstance(answer, Stranded):
                    answers[rank.index] = answer
                elif stranded is None:
                    stranded = _RankLostError(rank, answer.text)
                    deadline = time.monotonic() + STRANDED_SECONDS
            if stranded and time.monotonic() > deadline:
                raise stranded
        return answers

    def _receive(self, rank: RankHandle) -> RoundDone | Published | Stranded:
        try:
            message = rank.connection.recv()
        except (EOFError, OSError):
            raise _RankLostError(rank, "") from None
        if isinstance(message, Failure):
            raise _RankLostError(rank, message.text)
        assert isinstance(message, RoundDone | Published | Stranded)
        return message

    def _count(self, done: list[RoundDone]) -> None:
        """Count a round as what it is: one push of them all, and one update of each shard."""
        server, total = self.session.server, done[0]
        push = Push(
            worker=0,
            sequence=self.rounds,
            base_versions=server.versions,
            num_batches=total.num_batches,
            target_words=total.target_words,
            source_words=total.source_words,
            cross_entropy=total.cross_entropy,
            gradient_norm=total.gradient_norm,
            compute_seconds=total.compute_seconds,
            overflowed=total.overflowed,
        )
        if total.applied:
            for shard in server.shards:
                shard.version += 1
        staleness = (0,) * len(server.shards)
        reply = Reply(self.rounds, server.versions, total.applied, staleness, total.learning_rate)
        for index, each in enumerate(done[1:], 1):
            self.session.reporter.computed(index, each.compute_seconds)
        self.session.count(push, reply)

    def _publish(self) -> None:
        """Have the ranks bring their shards to shared memory; on CPUs they are there."""
        if self.in_place:
            return
        for rank in self.ranks:
            self._send(rank, Publish(self.session.server.updates))
        self._collect()

    def _request(self, *, to_validate: bool) -> None:
        counts = self._rank_counts()
        self.validator.request(to_validate=to_validate, workers=counts)
        self._kept = self.session.state(to_validate=to_validate, workers=counts)

    def _recover(self, loss: _RankLostError) -> None:
        """Take the state back to where it is whole; the ranks will be started again there."""
        loss.rank.process.join(STRANDED_SECONDS)
        index, process = loss.rank.index, loss.rank.process
        cause = f"was {cause_of_death(self.session.run, index, process, loss.last_words)}"
        self.session.reporter.worker(index, cause, self.session.clocks())
        self._stop_ranks()
        self.deaths += 1
        if self.deaths > self.session.config.asynchronous.max_restarts:
            raise TrainingError(
                f"the workers ended {self.deaths} times without an update between; "
                f"worker {index} {cause}",
                where=self.session.run.logs,
                remedy="the state is saved; remove the cause and run the same command again",
            )

    def _stop_ranks(self) -> None:
        """End the ranks; the round under way is lost, and whatever state is not whole."""
        for rank in self.ranks:
            rank.process.kill()
        for rank in self.ranks:
            rank.process.join()
            rank.connection.close()
        self.ranks = []
        self.upcoming = None
        for number in (0, 1):
            for holder in self._holders(number):
                self.session.cursor.give_back(holder)
        if self.generation and (self.marks != self.session.server.updates).any():
            self._rewind()

    def _rewind(self) -> None:
        lost = self.session.server.updates
        self.session.rewind(self._kept, self.validator.vectors)
        self.batches = {int(k): v["batches"] for k, v in self._kept["workers"].items()}
        self.marks.fill_(self.session.server.updates)
        updates = self.session.server.updates
        self.session.reporter.display.message(
            f"the state of update {lost:,} is not whole: going back to update {updates:,}"
        )

    def _rank_counts(self) -> dict[int, dict[str, int]]:
        return {index: {"batches": batches} for index, batches in self.batches.items()}

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        if self.ranks and not self.round_under_way:
            with contextlib.suppress(_RankLostError):  # then the shared state shows its age
                self._publish()
        self._stop_ranks()
        self.directory.cleanup()
        self.validator.finish(self._rank_counts(), validate=validate)

    def close(self) -> None:
        """End all processes that are still there, whatever has happened."""
        for rank in self.ranks:
            rank.process.kill()
        self.validator.stop()
        self.directory.cleanup()

    def validate_restored(self) -> None:
        """Make up for the validation that the resumed checkpoint was saved for."""
        self._request(to_validate=True)
