"""Kills of actors and removals of nodes, drawn by a seed, while training goes on."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from nmtasync.run_directory import RunDirectory
from nmtasync.training.session import Session
from tests.support.cluster import at_each_push, emulated_cluster, workers_seen
from tests.support.processes import command_of, descendants, wait_gone
from tests.support.replays import log_of, replay
from tests.support.runs import assert_same_vectors, copy_of, final_state, words_of_an_epoch

FAULTS, SEED, ENDLESS = 50, 1, 10**6


@pytest.mark.system
def test_fifty_kills_of_actors_and_removals_of_nodes_lose_no_window(toy_run: RunDirectory) -> None:
    """Each batch is used once, the replay is the same, and neither processes nor memory stay.

    A fault comes some pushes after the one before it, when its victim is there. A node that was
    removed is followed by another one.
    """
    rng, other = random.Random(SEED), copy_of(toy_run)
    memory = set(Path("/dev/shm").iterdir())
    happened = {"kill": 0, "removal": 0}
    with emulated_cluster() as cluster, workers_seen() as workers:
        nodes, wait = [cluster.add()], [3]

        def strike(session: Session, worker: int) -> None:
            wait[0] -= 1
            there = {index: seen.pid for index, seen in workers.items() if seen.pid is not None}
            if wait[0] > 0 or not there:
                return
            if sum(happened.values()) == FAULTS:
                if session.cursor.max_epochs == ENDLESS:
                    session.cursor.max_epochs = session.cursor.epoch + 1
                return
            wait[0] = rng.randint(1, 12)
            if rng.random() < 0.5:
                happened["kill"] += 1
                try:
                    os.kill(rng.choice(list(there.values())), signal.SIGKILL)
                except ProcessLookupError:  # with its node, and nobody has noticed yet
                    happened["kill"] -= 1
            else:
                happened["removal"] += 1
                cluster.remove(nodes.pop())
                nodes.append(cluster.add())

        with at_each_push(strike):
            cluster.train(
                toy_run,
                asynchronous__num_workers=3,
                asynchronous__max_restarts=1000,
                training__max_epochs=ENDLESS,
            )
        ours = [pid for pid in descendants(os.getpid()) if "multiprocessing" not in command_of(pid)]
    for pid in ours:
        wait_gone(pid)
    assert sum(happened.values()) == FAULTS and min(happened.values()) > 10
    assert not set(Path("/dev/shm").iterdir()) - memory
    epochs, over = divmod(
        final_state(toy_run)[1]["progress"]["target_words"], words_of_an_epoch(toy_run)
    )
    assert epochs and not over
    options = {"training__max_epochs": ENDLESS, "training__validate_every": 10**6}
    plain = {"asynchronous__optimizer_delay": 1, "asynchronous__local_optimizer_batches": 0}
    replay(other, log_of(toy_run), **options, **plain, schedule__decay="inverse-sqrt")
    assert_same_vectors(toy_run, other)
