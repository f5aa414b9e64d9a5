"""Hosts of a Ray cluster whose devices, each a process, sum their gradients: each is one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmtasync.config.load import resolve
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.training.cluster.room import GPU, NodeRoom, choose_workers
from nmtasync.training.session import Session
from tests.support.cluster import EmulatedCluster, at_each_push, emulated_cluster, workers_seen
from tests.support.processes import command_of, descendants, wait_gone
from tests.support.replays import log_of, logged, replay
from tests.support.runs import (
    assert_same_vectors,
    copy_of,
    events,
    final_state,
    train_toy,
    words_of_an_epoch,
)

HOSTS: dict[str, object] = {"asynchronous__hosts": "synchronous"}
DELTAS: dict[str, object] = {
    "asynchronous__local_optimizer_batches": "always",
    "asynchronous__local_push": "delta",
}
ENDLESS = 10**6


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmulatedCluster]:
    with emulated_cluster(num_cpus=2) as nodes:
        yield nodes


def assert_replayed(run: RunDirectory, other: RunDirectory, **options: object) -> None:
    plain = {
        "asynchronous__optimizer_delay": 1,
        "asynchronous__local_optimizer_batches": 0,
        "schedule__decay": "inverse-sqrt",
    }
    endless = {"training__validate_every": ENDLESS, "training__max_epochs": ENDLESS}
    replay(other, log_of(run), **{**plain, **options, **endless})
    assert_same_vectors(run, other)


def members(pid: int) -> list[int]:
    """The processes of the other devices of a host, by that of its worker."""
    return [
        child for child in descendants(pid) if os.path.exists(f"/proc/{child}/cmdline")  # noqa: PTH110
        and "forkserver" in command_of(child)
        and child != fork_server(pid)
    ]  # fmt: skip


def fork_server(pid: int) -> int:
    (server,) = (
        child
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if "forkserver" in command_of(int(child))
    )
    return int(server)


@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [{}, {"training__precision": "bf16", "asynchronous__exchange_precision": "bf16"}],
    ids=["float32", "bf16"],
)
def test_a_host_of_two_devices_is_one_worker_with_twice_the_delay_bit_for_bit(
    toy_run: RunDirectory, cluster: EmulatedCluster, options: dict[str, object]
) -> None:
    other = copy_of(toy_run)
    options = {"training__max_updates": 12, **options}
    cluster.train(toy_run, **HOSTS, asynchronous__num_workers=1, **options)
    train_toy(
        other,
        training__validate_every=ENDLESS,
        asynchronous__devices="cpu",
        asynchronous__optimizer_delay=2,
        **options,
    )
    assert_same_vectors(toy_run, other)
    assert final_state(toy_run)[1]["progress"] == final_state(other)[1]["progress"]
    (start,) = events(toy_run, "worker")
    assert start["what"].endswith(", with 2 devices") and start["node"] in start["what"]


def end_soon(session: Session) -> None:
    """Let training end with this epoch, when all of its batches are done."""
    if session.cursor.max_epochs == ENDLESS:
        session.cursor.max_epochs = session.cursor.epoch + 1


def assert_each_batch_once(run: RunDirectory) -> None:
    words = final_state(run)[1]["progress"]["target_words"]
    epochs, over = divmod(words, words_of_an_epoch(run))
    assert epochs and not over


VARIANTS: dict[str, dict[str, object]] = {
    "overlap, dropping, 16 bits": {
        "asynchronous__optimizer_delay": 2,
        "asynchronous__overlap": True,
        "asynchronous__drop_rate": 0.9,
        "asynchronous__exchange_precision": "bf16",
    },
    "local optimizers, deltas": {"asynchronous__optimizer_delay": 2, **DELTAS},
}


@pytest.mark.processes
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_hosts_are_replayed_bit_for_bit_and_a_resumed_run_goes_on(
    toy_run: RunDirectory, cluster: EmulatedCluster, variant: str
) -> None:
    other, options = copy_of(toy_run), VARIANTS[variant]
    for _ in range(2):
        pushed = set[int]()

        def note(session: Session, worker: int, pushed: set[int] = pushed) -> None:
            pushed.add(worker)
            if len(pushed) == 2:
                end_soon(session)

        with at_each_push(note):
            cluster.train(toy_run, training__max_epochs=ENDLESS, **HOSTS, **options)
    assert_each_batch_once(toy_run)
    assert [start["num_devices"] for start in logged(toy_run, "run")] == [2, 2]
    assert_replayed(toy_run, other, **options)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "number"),
    [("member", signal.SIGKILL), ("member", signal.SIGSTOP), ("worker", signal.SIGKILL)],
)
def test_who_was_killed_or_hangs_takes_its_host_along_and_nothing_is_lost(
    toy_run: RunDirectory, cluster: EmulatedCluster, who: str, number: signal.Signals
) -> None:
    other, hit, gone, memory = copy_of(toy_run), list[int](), list[int](), shared_memory()

    def hit_host_1(session: Session, worker: int) -> None:
        pid = workers[1].pid
        if worker == 1 and not hit and pid:
            hit.append(pid)
            (member,) = members(pid)
            gone.extend((pid, fork_server(pid), member))
            if who == "worker":
                os.kill(member, signal.SIGSTOP)  # it can't see by itself that it is alone
            os.kill(member if who == "member" else pid, number)
        elif worker == 1 and hit[0] != pid:
            end_soon(session)

    with workers_seen() as workers, at_each_push(hit_host_1):
        options = {"training__max_epochs": ENDLESS, "asynchronous__worker_timeout": 20}
        cluster.train(toy_run, **HOSTS, **options)
    told = [event["what"] for event in events(toy_run, "worker") if event["worker"] == 1]
    assert len(told) == 3, told
    ends = {
        ("member", signal.SIGKILL): "its device 1 was killed by signal 9 (SIGKILL)",
        ("member", signal.SIGSTOP): "said nothing for 20 s and was ended",
        ("worker", signal.SIGKILL): "was lost: its process has ended, or its node",
    }
    assert told[1].endswith(ends[who, number])
    for pid in gone:
        wait_gone(pid)
    assert_each_batch_once(toy_run)
    assert_replayed(toy_run, other)
    assert shared_memory() <= memory


def shared_memory() -> set[str]:
    """What has a name in shared memory and is not Ray's own."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("torch_")}


@pytest.mark.processes
@pytest.mark.slow
def test_a_node_goes_away_with_its_host_and_another_joins(
    toy_run: RunDirectory, cluster: EmulatedCluster
) -> None:
    """The third host comes with the third node, is lost with it, and comes with the fourth."""
    other, joined, gone = copy_of(toy_run), list[object](), list[int]()

    def change_nodes(session: Session, worker: int) -> None:
        if not joined:
            joined.append(cluster.add())
        elif worker == 2 and len(joined) == 1:
            pid = workers[2].pid
            assert pid is not None
            gone.extend((pid, *members(pid)))
            cluster.remove(joined[0])
            joined.append(cluster.add())
        elif worker == 2 and workers[2].is_on(joined[1]):
            end_soon(session)

    with workers_seen() as workers, at_each_push(change_nodes):
        cluster.train(toy_run, **HOSTS, asynchronous__num_workers=3, training__max_epochs=ENDLESS)
    cluster.remove(joined[1])
    assert len(gone) == 2
    for pid in gone:
        wait_gone(pid)
    assert_each_batch_once(toy_run)
    assert_replayed(toy_run, other)


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([(2, 0), (2, 0)], {}, (2, 2, "cpu", 1, 2)),
        ([(16, 0), (16, 0)], {}, (2, 2, "cpu", 4, 4)),
        ([(16, 0), (3, 0)], {}, (2, 6, "cpu", 1, 3)),
        ([(16, 0), (3, 0)], {"num_workers": 1}, (1, 1, "cpu", 4, 4)),
        ([(16, 0), (3, 0)], {"num_workers": 4}, (4, 6, "cpu", 1, 3)),
        ([(16, 0), (3, 0)], {"threads": 2}, (2, 9, "cpu", 2, 1)),
        ([(16, 0), (3, 0), (0, 0)], {"devices": "cpu,cpu"}, (2, 9, "cpu", 1, 2)),
        ([(16, 0), (3, 0)], {"devices": ",".join(["cpu"] * 8)}, (1, 1, "cpu", 2, 8)),
        ([(16, 4), (8, 2), (8, 0)], {}, (2, 3, GPU, 4, 2)),
        ([(16, 4), (8, 2)], {"num_workers": 1}, (1, 1, GPU, 4, 4)),
        ([(16, 4), (8, 2)], {"devices": "cpu"}, (2, 3, "cpu", 2, 4)),
    ],
)
def test_how_many_hosts_there_are_and_how_many_devices_each_has(
    nodes: list[tuple[int, int]],
    options: dict[str, object],
    expected: tuple[int, int, str, int, int],
) -> None:
    settings = {f"asynchronous.{name}": value for name, value in options.items()}
    chosen = {"asynchronous.driver": "ray", "asynchronous.hosts": "synchronous"}
    rooms = [NodeRoom(*node) for node in nodes]
    wanted = choose_workers(rooms, resolve(chosen, settings).asynchronous)
    told = wanted.number, wanted.room, wanted.device, wanted.threads, wanted.num_devices
    assert told == expected
    kept = {"num_gpus": expected[4], "num_cpus": 0}
    assert wanted.resources == (
        kept if expected[2] == GPU else {"num_cpus": expected[3] * expected[4]}
    )


@pytest.mark.parametrize(
    ("nodes", "options", "words"),
    [
        ([(4, 0)], {"devices": "cuda"}, "1 GPUs for a host"),
        ([(4, 1)], {"devices": "cuda,cuda"}, "2 GPUs for a host"),
        ([(4, 0)], {"devices": "cpu,cpu", "threads": 3}, "6 CPUs for a host"),
        ([(0, 0)], {}, "1 CPUs for a host"),
    ],
)
def test_hosts_that_a_cluster_does_not_have_are_refused(
    nodes: list[tuple[int, int]], options: dict[str, object], words: str
) -> None:
    settings = {f"asynchronous.{name}": value for name, value in options.items()}
    chosen = {"asynchronous.driver": "ray", "asynchronous.hosts": "synchronous"}
    with pytest.raises(UserError, match=words):
        choose_workers([NodeRoom(*node) for node in nodes], resolve(chosen, settings).asynchronous)


@pytest.mark.parametrize("driver", ["local", "synchronous"])
def test_one_machine_is_one_host(driver: str) -> None:
    chosen = {"asynchronous.driver": driver, "asynchronous.hosts": "synchronous"}
    with pytest.raises(UserError, match=r"hosts: .*--driver synchronous.*--driver ray") as refusal:
        resolve({}, chosen)
    assert "\n" not in str(refusal.value)
