"""Synchronous training: the baseline. The gradients of all ranks make one update.

Each rank is a process with a device; the main process hands out windows of batches, counts, and
has snapshots saved. The state lies in shared memory, where the ranks update it.

When a rank dies, the round is lost: all ranks are ended and started again, and its windows are
drawn again. They go on from the state in shared memory if it is whole, which it is on CPUs except
in the moment of an update; otherwise from the last snapshot, whose copy in memory the validator
reads: then what came after it is computed again. A mark for each shard tells if it is whole.

N ranks with delay τ are one worker with delay N·τ, bit for bit as far as sums of floats allow.
Ranks on GPUs (NCCL) have not run on any; the same path is tested with Gloo.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from nmtasync.data.cursor import AssignedBatch
from nmtasync.errors import TrainingError
from nmtasync.machine.processes import POLL_SECONDS, Child, ChildEndedError, end_all, end_all_silent
from nmtasync.machine.supervision import Supervision
from nmtasync.server.transport import share, shared_vector
from nmtasync.training.session import DriverState, Session, restore_server
from nmtasync.training.synchronous.rank import Round, RoundDone
from nmtasync.training.synchronous.rank_process import Publish, RankSetup, Stranded, run_rank
from nmtasync.training.validation.validator_client import ValidatorClient

STRANDED_SECONDS = 10.0
"""A rank that lost the others is itself the cause if no other has died for so long."""


def works_in_shared_memory(devices: list[str]) -> bool:
    """Whether the ranks compute with vectors in shared memory, or with copies on their devices."""
    return devices[0] == "cpu"


class SynchronousDriver:
    """Runs all ranks to the end, round by round.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.supervision: Supervision[str] = Supervision(session.config.asynchronous.worker_timeout)
        devices = session.parts.devices
        num_ranks = len(devices)
        self.batches = [session.start.batches_of(index) for index in range(num_ranks)]
        # all memory before the first process, so that too little of it leaves none behind
        for vector in session.server.vectors.values():
            share(vector)
        self.in_place = works_in_shared_memory(devices)
        self.gradients = [shared_vector(session.server.size) for _ in devices if self.in_place]
        self.marks = share(torch.zeros(num_ranks, dtype=torch.int64))
        self.validator = ValidatorClient(session)
        session.server.copy_vectors(self.validator.vectors)
        self.directory = tempfile.TemporaryDirectory(prefix="nmtasync-")
        self.generation = 0
        self.rounds = 0
        self.deaths = 0  # since the last update that had not been made before
        self.furthest = session.server.updates
        self.upcoming: list[list[AssignedBatch]] | None = None
        self.round_under_way = False
        self.ranks: list[Child] = []

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        while (reason := self.session.stop_reason()) is None:
            try:
                if not self.ranks:
                    self._start()
                self._count(self._play_round())
                self.validator.save_if_due(self._published_state)
            except ChildEndedError as loss:
                self._recover(loss.child)
        return reason

    def _start(self) -> None:
        self.generation += 1
        self.marks.fill_(self.session.server.updates)
        for index in range(len(self.batches)):
            setup = RankSetup(
                index,
                self.session.parts,
                self.session.server.vectors,
                self.marks,
                self.gradients,
                str(Path(self.directory.name) / str(self.generation)),
            )
            self.ranks.append(Child(run_rank, setup, f"rank {index}"))

    def _play_round(self) -> list[RoundDone]:
        """Let all ranks make one update together, and draw the windows of the next one."""
        windows = self.upcoming if self.upcoming is not None else self._draw()
        self.rounds += 1
        self.upcoming = self._draw()
        self.round_under_way = True
        server, share_done = self.session.server, self.session.share_done()
        seen = server.measured.seen_words
        for rank, window, upcoming in zip(self.ranks, windows, self.upcoming, strict=True):
            rank.send(Round(server.updates, seen, window, upcoming, share_done))
        done = self._collect()
        self.round_under_way = False
        assert all(isinstance(answer, RoundDone) for answer in done)
        for holder in self._holders(self.rounds - 1):
            self.session.cursor.finish(holder)
        for index, window in enumerate(windows):
            self.batches[index] += len(window)
        return done

    def _holders(self, number: int) -> list[int]:
        """Under whose names the cursor keeps the windows of a round: two rounds are under way."""
        first = len(self.batches) * (number % 2)
        return list(range(first, first + len(self.batches)))

    def _draw(self) -> list[list[AssignedBatch]]:
        return [self.session.next_window(holder) for holder in self._holders(self.rounds)]

    def _collect(self) -> list[Any]:
        """Wait for one answer of each rank; return them in the order of the ranks.

        Raises:
            ChildEndedError: A rank has died.
        """
        answers: dict[Child, Any] = {}
        stranded: Child | None = None
        deadline = 0.0
        self.supervision.expect("round")
        while len(answers) < len(self.ranks):
            waiting = {rank.connection: rank for rank in self.ranks if rank not in answers}
            for connection in wait([*waiting, self.validator.connection], POLL_SECONDS):
                if connection is self.validator.connection:
                    self.validator.receive()
                    continue
                assert isinstance(connection, Connection)
                rank = waiting[connection]
                answer = rank.receive()
                if not isinstance(answer, Stranded):
                    answers[rank] = answer
                elif stranded is None:
                    stranded, rank.last_words = rank, answer.text
                    deadline = time.monotonic() + STRANDED_SECONDS
            if stranded and time.monotonic() > deadline:
                raise ChildEndedError(stranded)
            self.validator.supervise()
            if self.supervision.overdue():
                silent = [rank for rank in self.ranks if rank not in answers]
                raise ChildEndedError(end_all_silent(silent, self.supervision.limit))
        self.supervision.done("round")
        return [answers[rank] for rank in self.ranks]

    def _count(self, done: list[RoundDone]) -> None:
        """Count a round as what it is: one push of them all, and one update of each shard."""
        for each in done[1:]:
            self.session.reporter.computed(each.figures.worker, each.figures.compute_seconds)
            self.session.count_split(each.figures.worker, each.figures.split_batches)
        squares, words = done[0].squares, done[0].words
        if squares is not None:  # the ranks' gradients are of the same parameters
            *own, together = squares
            product = (together - sum(own)) / 2
            self.session.server.measured.noise.add(product, own, words, range(len(own)))
        figures = done[0].figures
        reply = self.session.server.note_update(done[0].learning_rate, figures.target_words)
        figures.bad_batches = tuple(b for each in done for b in each.figures.bad_batches)
        self.session.count(figures, reply)
        if self.session.server.updates > self.furthest:
            self.furthest, self.deaths = self.session.server.updates, 0

    def _state(self) -> DriverState:
        return DriverState({index: {"batches": n} for index, n in enumerate(self.batches)})

    def _published_state(self) -> DriverState:
        """Have the ranks bring their shards to shared memory first; on CPUs they are there."""
        if not self.in_place:
            for rank in self.ranks:
                rank.send(Publish(self.session.server.updates))
            self._collect()
        return self._state()

    def _recover(self, rank: Child) -> None:
        """Take the state back to where it is whole; the ranks will be started again there."""
        rank.process.join(STRANDED_SECONDS)
        index = self.ranks.index(rank)
        cause = rank.cause_of_death(self.session.run.logs / f"worker-{index}.log")
        self.session.reporter.worker_event(index, cause, self.session.clocks())
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
        end_all(self.ranks)
        self.ranks = []
        self.upcoming = None
        for number in (0, 1):
            for holder in self._holders(number):
                self.session.cursor.give_back(holder)
        if self.generation and (self.marks != self.session.server.updates).any():
            self._rewind()

    def _rewind(self) -> None:
        session, kept = self.session, self.validator.state
        lost = session.server.updates
        restore_server(session.server, self.validator.vectors, kept)
        session.cursor.restore(kept.cursor)
        session.totals = kept.totals
        self.batches = [kept.batches_of(index) for index in range(len(self.batches))]
        self.marks.fill_(kept.updates)
        session.reporter.display.message(
            f"the state of update {lost:,} is not whole: going back to update {kept.updates:,}"
        )

    def finish(self, *, validate: bool) -> None:
        """Save the last state, and validate it unless there is no time for it."""
        if not self.round_under_way:
            with contextlib.suppress(ChildEndedError):  # then the shared state shows its age
                self._published_state()
        self._stop_ranks()
        self.directory.cleanup()
        self.validator.finish(self._state(), validate=validate)

    def close(self) -> None:
        """End all processes that are still there, whatever has happened."""
        end_all(self.ranks)
        self.validator.stop()
        self.directory.cleanup()

    def validate_restored(self) -> None:
        """Validate the resumed checkpoint, which was saved for that, after all."""
        self.validator.save(self._state(), to_validate=True)
