"""The local driver under any schedule: who acts next, and who dies when, is drawn, not raced.

The workers' own code runs in threads of which only one runs at a time, and stops wherever a
worker's process would wait for, or speak to, another one.
"""

from __future__ import annotations

import io
import random
import threading
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nmtasync.machine import processes
from nmtasync.machine.processes import Child
from nmtasync.run_directory import RunDirectory
from nmtasync.training.asynchronous import local, worker_process, workers
from nmtasync.training.exchanges import LoggedExchanges
from nmtasync.training.reporting.summary import TrainingSummary
from nmtasync.training.session import DriverState, Session
from nmtasync.training.validation.saver import Saver
from tests.support.replays import log_of
from tests.support.runs import copy_of, final_state, train_toy, words_of_an_epoch


class Killed(BaseException):
    """Ends the thread of a worker, as SIGKILL ends a process: no handler of its own sees it."""


class Actor:
    """A worker; it is also the worker's end of its pipe."""

    def __init__(self, setup: worker_process.WorkerSetup) -> None:
        self.index = setup.index
        self.received: deque[Any] = deque()
        self.sent: deque[Any] = deque()
        self.waiting = self.dead = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(setup,), daemon=True)
        self._thread.start()

    def _run(self, setup: worker_process.WorkerSetup) -> None:
        self._go.acquire()
        try:
            if not self.dead:
                worker_process.run_worker(setup, self)  # type: ignore[arg-type]
        except Killed:
            pass
        finally:
            self._back.release()

    def _pause(self) -> None:
        self._back.release()
        self._go.acquire()
        if self.dead:
            raise Killed

    def recv(self) -> Any:
        while not self.received:
            self.waiting = True
            self._pause()
        self.waiting = False
        return self.received.popleft()

    def send(self, message: Any) -> None:
        self._pause()  # killed here, it has left its payload, and nobody learns of it
        self.sent.append(message)

    @property
    def can_act(self) -> bool:
        return not self.dead and (not self.waiting or bool(self.received))

    def act(self) -> None:
        """Go on to where it wants to speak, or has to wait."""
        self._go.release()
        self._back.acquire()

    def kill(self) -> None:
        if not self.dead:
            self.dead = True
            self.act()
            self._thread.join()


class ServersEnd(Connection):
    """The other end of a worker's pipe."""

    _handle = None

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    @property
    def readable(self) -> bool:
        return bool(self.actor.sent) or self.actor.dead

    def recv(self) -> Any:
        if not self.actor.sent:
            raise EOFError
        return self.actor.sent.popleft()

    def send(self, message: Any) -> None:
        if self.actor.dead:
            raise BrokenPipeError
        self.actor.received.append(message)

    def close(self) -> None:
        pass


class FakeProcess:
    exitcode = -9

    def __init__(self, actor: Actor) -> None:
        self.kill = actor.kill

    def join(self) -> None:
        pass


class SavingHere(Saver):
    """Saves in this process, at the end."""

    connection = None

    def save(self, driver: DriverState, *, to_validate: bool) -> None:
        raise AssertionError("nothing is due before the end")

    def finish(self, driver: DriverState, *, validate: bool) -> None:
        vectors = self.session.server.vectors
        self.write(self.take_snapshot(driver, vectors, to_validate=False))

    def stop(self) -> None:
        pass

    def supervise(self) -> None:
        pass


class Stage:
    """Lets one worker after another act, and the server listen, in an order drawn by a seed.

    Args:
        seed: Decides who is how fast, who is next, and who dies when.
        deaths: How probable a death is, each time that somebody acts.
    """

    def __init__(self, seed: int, deaths: float) -> None:
        self.random = random.Random(seed)
        self.speeds = [self.random.choice([1, 1, 4]) for _ in range(9)]
        self.deaths = deaths
        self.actors: dict[int, Actor] = {}
        self.batches: Counter[tuple[int, int]] = Counter()
        self.fetched_at: dict[tuple[int, int], int] = {}

    def child(self, serve: Any, setup: worker_process.WorkerSetup, name: str) -> Child:
        """Start an actor in place of a process."""
        assert serve is worker_process.run_worker
        actor = self.actors[setup.index] = Actor(setup)
        child = Child.__new__(Child)
        child.name, child.last_words, child.silent_seconds = name, "", None
        child._stacks = io.BytesIO()
        child.process, child.connection = FakeProcess(actor), ServersEnd(actor)
        return child

    def wait(self, connections: Sequence[Any], timeout: float) -> list[Any]:
        """Let workers act until the server reads something."""
        ends = [end for end in connections if isinstance(end, ServersEnd)]
        while True:
            acting = [end for end in ends if end.actor.can_act]
            readable = [end for end in ends if end.readable]
            assert acting or readable, "everybody waits for somebody else"
            speeds = [self.speeds[end.actor.index] for end in acting] + [2] * len(readable)
            (place,) = self.random.choices(range(len(speeds)), speeds)
            if place >= len(acting):
                return [readable[place - len(acting)]]
            alive = sum(not end.actor.dead for end in ends)
            if alive > 1 and self.random.random() < self.deaths:
                acting[place].actor.kill()
            else:
                acting[place].actor.act()

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Note which batches are pushed, and compare the staleness with what was fetched when."""
        exchange, fetch = Session.exchange, LoggedExchanges.fetch

        def exchanged(session: Session, computed, payload, landing, *rest):
            push = computed.push
            self.batches.update(session.cursor.held(push.worker, push.slot))
            place = (push.worker, push.slot)
            late = session.server.updates - self.fetched_at[place]
            reply = exchange(session, computed, payload, landing, *rest)
            assert set(reply.staleness) == {late}
            self.fetched_at[place] = session.server.updates
            return reply

        def fetched(session: Session, worker, landing, batches_before=None, slot=0):
            self.fetched_at[worker, slot] = session.server.updates
            return fetch(session, worker, landing, batches_before, slot)

        patch.setattr(Session, "exchange", exchanged)
        patch.setattr(LoggedExchanges, "fetch", fetched)


def train_on_stage(run: RunDirectory, stage: Stage, **options: object) -> TrainingSummary:
    """Train with the workers of a stage."""
    with pytest.MonkeyPatch.context() as patch:
        stage.watch(patch)
        patch.setattr(workers, "ValidatorClient", SavingHere)
        patch.setattr(local, "wait", stage.wait)
        patch.setattr(local, "Child", stage.child)
        patch.setattr(workers, "pause_before_restart", lambda deaths: 0.0)
        patch.setattr(processes, "leave_signals_to_main", lambda: None)
        return train_toy(run, resume=False, **options)


LOCAL_STEPS = {"local_optimizer_batches": "always", "optimizer_delay": 2}
OUTER = {**LOCAL_STEPS, "rule": "outer-nesterov", "local_push": "delta", "outer_delay": 2}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "buffer": {"rule": "buffer+staleness-aware", "buffer_pushes": 2},
    "compensation": {"rule": "delay-compensation", "optimizer_delay": 2},
    "local optimizers": LOCAL_STEPS,
    "deltas": OUTER,
    "dropping": {"drop_rate": 0.9, "drop_local_gradient": True},
    "rounding": {"exchange_precision": "bf16"},
    "rounding what is not dropped": {"exchange_precision": "fp16", "drop_rate": 0.9},
}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(
    max_examples=3,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    num_workers=st.integers(2, 3),
    overlap=st.sampled_from([True, False]),
    max_restarts=st.sampled_from([0, 1000]),
    num_shards=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_any_schedule_uses_each_batch_once_and_is_replayed_bit_for_bit(
    toy_run, tmp_path, variant, num_workers, overlap, max_restarts, num_shards, seed
):
    """Whoever is killed when, with windows under way, and on any number of shards."""
    other = RunDirectory(tmp_path / "copy")
    if not other.root.exists():
        copy_of(toy_run)
    options = {
        **{f"asynchronous__{name}": value for name, value in VARIANTS[variant].items()},
        "asynchronous__overlap": overlap,
        "data__batch_tokens": 50,
        "training__validate_every": 1_000_000,
    }
    stage = Stage(seed, deaths=0.1)
    summary = train_on_stage(
        toy_run,
        stage,
        asynchronous__devices=",".join(["cpu"] * num_workers),
        asynchronous__max_restarts=max_restarts,
        training__max_epochs=1,
        **options,
    )
    assert summary.target_words == words_of_an_epoch(toy_run)
    assert set(stage.batches.values()) == {1}, "each batch is pushed exactly once"
    train_toy(
        other,
        resume=False,
        asynchronous__driver="simulated",
        asynchronous__num_shards=num_shards,
        simulation__replay=str(log_of(toy_run)),
        **options,
    )
    (vectors, state), (others, other_state) = final_state(toy_run), final_state(other)
    assert {"parameters", "average"} <= vectors.keys() & others.keys()
    for name in vectors.keys() & others.keys():  # no backup of a worker that never came to fetch
        assert torch.equal(vectors[name], others[name]), name
    for key in ("progress", "last_sequences", "updates"):
        assert state[key] == other_state[key], key
