"""Workers on emulated nodes of a Ray cluster: the same training, whoever and whatever goes away."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nmtasync.checkpoints import store
from nmtasync.config.load import resolve
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory
from nmtasync.training.cluster.corpus import RunSource
from nmtasync.training.cluster.room import GPU, NodeRoom, choose_workers
from nmtasync.training.session import Session
from tests.support.cluster import (
    EmulatedCluster,
    at_each_push,
    emulated_cluster,
    workers_seen,
)
from tests.support.processes import (
    command_of,
    descendants,
    is_loopback,
    listening,
    start_training,
    wait_for_line,
    wait_gone,
)
from tests.support.replays import ONE, log_of, replay
from tests.support.runs import (
    assert_same_vectors,
    copy_of,
    events,
    final_state,
    train_toy,
    words_of_an_epoch,
)

EPOCHS, ENDLESS = 6, 10**6
LOST = "was lost: its process has ended, or its node"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmulatedCluster]:
    with emulated_cluster() as nodes:
        yield nodes


def words_used(run: RunDirectory) -> int:
    return final_state(run)[1]["progress"]["target_words"]


def assert_replayed(run: RunDirectory, other: RunDirectory, **options: object) -> None:
    endless = {"training__validate_every": 10**6, "training__max_epochs": ENDLESS}
    replay(other, log_of(run), **{**options, **endless})
    assert_same_vectors(run, other)


@pytest.mark.processes
def test_one_worker_elsewhere_computes_what_one_in_this_process_does(
    toy_run: RunDirectory, cluster: EmulatedCluster
) -> None:
    other = copy_of(toy_run)
    options = {"training__max_updates": 12}
    cluster.train(toy_run, asynchronous__devices="cpu", asynchronous__num_workers=1, **options)
    train_toy(other, training__validate_every=10**6, **options)
    assert_same_vectors(toy_run, other)


PLAIN: dict[str, object] = {
    "asynchronous__optimizer_delay": 1,
    "asynchronous__local_optimizer_batches": 0,
    "schedule__decay": "inverse-sqrt",
}
"""As the toy's, where `ONE` of the replays is otherwise."""

WAITS = "waits until there is room"
"""What is told of a worker that does not start within seconds, as on a machine with other work."""

VARIANTS: dict[str, dict[str, object]] = {
    "local optimizers, compensation": {**ONE, "asynchronous__rule": "delay-compensation"},
    "overlap, dropping, 16 bits": {
        "asynchronous__overlap": True,
        "asynchronous__drop_rate": 0.9,
        "asynchronous__exchange_precision": "bf16",
    },
}


@pytest.mark.processes
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_replayed_bit_for_bit_and_uses_each_batch_once(
    toy_run: RunDirectory, cluster: EmulatedCluster, variant: str
) -> None:
    other = copy_of(toy_run)
    options = {**PLAIN, **VARIANTS[variant], "training__max_epochs": EPOCHS}
    cluster.train(toy_run, **{**options, "asynchronous__devices": "cpu,cpu"})
    assert words_used(toy_run) == EPOCHS * words_of_an_epoch(toy_run)
    told = [entry for entry in events(toy_run, "worker") if not entry["what"].startswith(WAITS)]
    nodes = {entry["worker"]: entry["node"] for entry in told}
    assert len(set(nodes.values())) == len(nodes), (
        "a node each; one may come too late for any batch"
    )
    assert events(toy_run, "end")[0]["nodes"] == {str(index): at for index, at in nodes.items()}
    assert_replayed(toy_run, other, **options)


@pytest.mark.processes
def test_a_run_goes_on_from_this_machine_to_a_cluster_and_back(
    toy_run: RunDirectory, cluster: EmulatedCluster
) -> None:
    here = {"asynchronous__driver": "local", "asynchronous__ray_address": None}
    for epochs, options in ((1, here), (2, {}), (3, here)):
        cluster.train(toy_run, training__max_epochs=epochs, **options)
    assert words_used(toy_run) == 3 * words_of_an_epoch(toy_run)


def end_soon(session: Session) -> None:
    """Let training end with this epoch, when all of its batches are done."""
    if session.cursor.max_epochs == ENDLESS:
        session.cursor.max_epochs = session.cursor.epoch + 1


def assert_each_batch_once(run: RunDirectory) -> None:
    epochs, over = divmod(words_used(run), words_of_an_epoch(run))
    assert epochs and not over


def what_happened(run: RunDirectory, worker: int) -> list[str]:
    """What is told of a worker, without the places and without waiting for it."""
    told = [entry["what"] for entry in events(run, "worker") if entry["worker"] == worker]
    return [text.partition(" on ")[0] for text in told if not text.startswith(WAITS)]


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_was_killed_or_hangs_loses_nothing_and_is_replaced(
    toy_run: RunDirectory, cluster: EmulatedCluster, number: signal.Signals
) -> None:
    other, hit = copy_of(toy_run), list[int]()

    def hit_worker_1(session: Session, worker: int) -> None:
        pid = workers[1].pid
        if worker == 1 and not hit and pid:
            hit.append(pid)
            os.kill(pid, number)
        elif worker == 1 and hit[0] != pid:
            end_soon(session)

    with workers_seen() as workers, at_each_push(hit_worker_1):
        options = {"training__max_epochs": ENDLESS, "asynchronous__worker_timeout": 3}
        cluster.train(toy_run, **options)
    end = LOST
    if number is signal.SIGSTOP:
        end = "said nothing for 3 s and was ended"
    assert what_happened(toy_run, 1) == ["starts", end, "starts"]
    wait_gone(hit[0])
    assert_each_batch_once(toy_run)
    assert_replayed(toy_run, other, **PLAIN)


@pytest.mark.processes
@pytest.mark.slow
def test_a_node_goes_away_another_joins_and_nothing_is_lost(
    toy_run: RunDirectory, cluster: EmulatedCluster
) -> None:
    """The third worker comes with the third node, is lost with it, and comes with the fourth."""
    other, joined = copy_of(toy_run), list[object]()

    def change_nodes(session: Session, worker: int) -> None:
        if not joined:
            joined.append(cluster.add())
        elif worker == 2 and len(joined) == 1:
            cluster.remove(joined[0])
            joined.append(cluster.add())
        elif worker == 2 and workers[2].is_on(joined[1]):
            end_soon(session)

    with workers_seen() as workers, at_each_push(change_nodes):
        cluster.train(toy_run, asynchronous__num_workers=3, training__max_epochs=ENDLESS)
    cluster.remove(joined[1])
    first, lost, again = what_happened(toy_run, 2)
    assert (first, again) == ("starts", "starts")
    assert lost == LOST or lost.startswith("was lost with its node"), "as soon as Ray knows"
    assert_each_batch_once(toy_run)
    assert_replayed(toy_run, other, **PLAIN)


@pytest.mark.processes
def test_a_corpus_that_is_not_seen_is_brought_once_to_each_host(
    toy_run: RunDirectory, cluster: EmulatedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the two workers look for is not there; what is brought comes from where RUN is."""
    cache, described = tmp_path / "cache", RunSource.of

    def elsewhere(run: RunDirectory, node: str) -> RunSource:
        return replace(described(run, node), seen_as=tmp_path / "not-here", cache=cache)

    monkeypatch.setattr(RunSource, "of", elsewhere)
    cluster.train(toy_run, training__max_epochs=2)
    assert words_used(toy_run) == 2 * words_of_an_epoch(toy_run)
    (copy,) = (path for path in cache.iterdir() if path.is_dir())
    made = copy.stat().st_ctime_ns
    for name in ("manifest.json", "data/train/source.tokens"):
        assert (copy / name).read_bytes() == (toy_run.root / name).read_bytes()
    cluster.train(toy_run, training__max_epochs=3)
    assert copy.stat().st_ctime_ns == made, "it was brought again"


@pytest.mark.processes
@pytest.mark.slow
def test_a_cluster_of_this_machine_is_out_of_reach_and_ends_with_the_main_process(
    toy_run: RunDirectory,
) -> None:
    """Nothing listens beyond the loopback interface; the same command goes on.

    Ray's agents, which compute nothing, take a minute to see that they are alone.
    """
    pytest.importorskip("ray")
    process = start_training(
        toy_run, "--driver=ray", "--devices=cpu,cpu", "--validate-every=5",
        "--set=training.log_every_seconds=0",
    )  # fmt: skip
    try:
        wait_for_line(process, "validation of update")
        addresses = listening(process.pid)
        left = [pid for pid in descendants(process.pid) if "Agent" not in command_of(pid)]
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert addresses, "or this would see nothing"
    assert not [address for address in addresses if not is_loopback(address)]
    for pid in left:
        wait_gone(pid)
    stopped = store.pointed(toy_run, "latest")
    assert stopped
    summary = train_toy(toy_run, asynchronous__driver="local", training__max_updates=stopped + 2)
    assert summary.updates == stopped + 2


def test_without_ray_one_line_says_what_to_install(
    toy_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install \"nmtasync\[cluster\]\""):
        train_toy(toy_run, asynchronous__driver="ray")


@pytest.mark.processes
def test_a_cluster_that_is_not_there_is_named(toy_run: RunDirectory) -> None:
    pytest.importorskip("ray")
    address = {"asynchronous__ray_address": "127.0.0.1:1"}
    with pytest.raises(UserError, match=r"ray_address.*127\.0\.0\.1:1"):
        train_toy(toy_run, asynchronous__driver="ray", **address)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("asynchronous.own_shard", {"asynchronous.own_shard": "batch"}),
        (
            "asynchronous.local_write_back",
            {
                "asynchronous.local_write_back": True,
                "asynchronous.local_optimizer_batches": "always",
                "asynchronous.optimizer_delay": 2,
            },
        ),
        ("data.batch_tokens", {"data.batch_tokens": "fit"}),
    ],
)
def test_what_needs_the_server_at_hand_is_refused(name: str, others: dict[str, object]) -> None:
    with pytest.raises(UserError, match=name):
        resolve({}, {"asynchronous.driver": "ray", **others})


@pytest.mark.parametrize("name", ["num_workers", "ray_address"])
def test_options_of_clusters_are_refused_without_one(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*asynchronous.driver to 'ray'"):
        resolve({}, {f"asynchronous.{name}": 2 if name == "num_workers" else "auto"})


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([(2, 0), (2, 0)], {}, (4, 4, "cpu", 1)),
        ([(16, 0), (16, 0)], {}, (8, 8, "cpu", 4)),
        ([(16, 0), (16, 0)], {"num_workers": 2}, (2, 2, "cpu", 16)),
        ([(16, 0), (16, 0)], {"num_workers": 3}, (3, 4, "cpu", 8)),
        ([(16, 0), (4, 0)], {"devices": "cpu,cpu"}, (2, 2, "cpu", 8)),
        ([(16, 0)], {"threads": 5}, (3, 3, "cpu", 5)),
        ([(2, 0)], {"num_workers": 5}, (5, 2, "cpu", 1)),
        ([(16, 4), (8, 1)], {}, (5, 5, GPU, 4)),
        ([(16, 4), (8, 1)], {"devices": "cpu"}, (8, 12, "cpu", 2)),
        ([(16, 4)], {"num_workers": 6}, (6, 4, GPU, 4)),
        ([(1, 1)], {"devices": "cuda:0,cuda:1", "threads": 3}, (2, 1, GPU, 3)),
    ],
)
def test_how_many_workers_a_cluster_has_room_for(
    nodes: list[tuple[int, int]], options: dict[str, object], expected: tuple[int, int, str, int]
) -> None:
    settings = {f"asynchronous.{name}": value for name, value in options.items()}
    config = resolve({"asynchronous.driver": "ray"}, settings)
    wanted = choose_workers([NodeRoom(*node) for node in nodes], config.asynchronous)
    assert (wanted.number, wanted.room, wanted.device, wanted.threads) == expected


@pytest.mark.parametrize(
    ("nodes", "options", "words"),
    [
        ([(4, 0)], {"devices": "cpu,cuda"}, "devices"),
        ([(4, 0)], {"devices": "gpu"}, "devices"),
        ([(4, 0)], {"devices": "cuda"}, "no GPU"),
        ([(4, 0)], {"threads": 5}, "5 CPUs"),
        ([(0, 0)], {}, "1 CPUs"),
        ([(4000, 0)], {"threads": 1}, "the most"),
    ],
)
def test_a_cluster_without_what_is_asked_for_is_refused(
    nodes: list[tuple[int, int]], options: dict[str, object], words: str
) -> None:
    settings = {f"asynchronous.{name}": value for name, value in options.items()}
    config = resolve({"asynchronous.driver": "ray"}, settings)
    with pytest.raises(UserError, match=words):
        choose_workers([NodeRoom(*node) for node in nodes], config.asynchronous)
