"""`data.batch_tokens` = fit: as large as memory lets it be, found once, and never beyond.

How much memory there is, is said by a function that the tests put another in the place of.
"""

from __future__ import annotations

import multiprocessing
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.machine import memory
from nmtasync.run_directory import RunDirectory
from nmtasync.training import fitting, train
from nmtasync.training.driver import DriverKind
from nmtasync.training.fitting import Held, largest_fit
from tests.support.runs import final_state
from tests.support.toy import TOY_FLAGS

MIB = 1 << 20


@settings(max_examples=300)
@given(
    constant=st.integers(0, 10_000),
    each=st.integers(1, 500),
    square=st.sampled_from([0.0, 0.0, 0.01]),
    room=st.integers(1, 10**7),
    most=st.integers(1, 20_000),
    refuses=st.booleans(),
)
def test_the_largest_budget_that_fits_is_found(constant, each, square, room, most, refuses):
    tried: list[int] = []

    def taken(tokens: int) -> int:
        return constant + each * tokens + int(square * tokens**2)

    def measure(tokens: int) -> int | None:
        tried.append(tokens)
        return None if refuses and taken(tokens) > room else taken(tokens)

    found = largest_fit(measure, room, most)
    if taken(1) > room:
        assert found is None
    else:
        assert found is not None and found.taken == taken(found.tokens) <= room
        full = found.tokens == most or found.tokens < 20 or 1.11 * found.taken > room
        assert full or taken(int(1.11 * found.tokens)) > room
    assert len(tried) < 30 and max(tried) <= most
    first_that_fits = next((t for t in tried if taken(t) <= room), 0)
    if not square and first_that_fits == tried[0]:
        assert all(taken(tokens) <= room for tokens in tried), "nothing was tried that is too much"


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    own = tmp_path / "proc/self"
    own.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.available_bytes() == 4000 * 1024, "no groups at all"

    outer, inner = tmp_path / "groups/outer", tmp_path / "groups/outer/inner"
    inner.mkdir(parents=True)
    (own / "cgroup").write_text("0::/outer/inner\n")
    for group, limit in ((outer, "3000000"), (inner, "max")):
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text("1000000\n")
        (group / "memory.stat").write_text("anon 900000\ninactive_file 50000\n")
    assert memory.available_bytes() == 2_050_000, "files in its cache can be given up"
    (inner / "memory.max").write_text("900000\n")
    assert memory.available_bytes() == 0

    old = tmp_path / "groups/memory/docker"
    old.mkdir(parents=True)
    (own / "cgroup").write_text("12:cpu,cpuacct:/docker\n4:memory:/docker\n")
    (old / "memory.limit_in_bytes").write_text("2000000\n")
    (old / "memory.usage_in_bytes").write_text("1500000\n")
    (old / "memory.stat").write_text("cache 7\ntotal_inactive_file 100\n")
    assert memory.available_bytes() == 500_100


def test_room_is_left_for_all_processes():
    """As docs/memory.md counts them: 2 S + 3 + N W, and what a process is by itself."""
    held = Held(process=10, parameters=1, server=4, worker=2)
    for workers in (2, 5):
        left = 10_000 - (2 * 4 + 3 + workers * 2) - (workers + 1) * 10
        room = fitting._room(held, 10_000, DriverKind.LOCAL, ["cpu"] * workers)
        assert room == left // (workers + 1), "and the validator has a batch, too"
    assert fitting._room(held, 10_000, DriverKind.INLINE, ["cpu"]) == 10_000 - 4 - 1 - 2
    gpus = ["cuda:0", "cuda:1"]  # half of the server, none of its snapshot
    assert fitting._room(held, 10_000, DriverKind.LOCAL, gpus) == (10_000 - 3 - 12 - 12) // 2


@pytest.fixture
def free(monkeypatch):
    """Lets a test say how many MiB are free."""
    monkeypatch.setattr(fitting, "_share_of", lambda run, num_workers: 10**6)

    def say(mib: int) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: mib * MIB)

    return say


def config_of(run: RunDirectory) -> int:
    return tomllib.loads(run.config.read_text("utf-8"))["data"]["batch_tokens"]


FIT = [*TOY_FLAGS, "--batch-tokens=fit", "--max-updates=2"]


@pytest.mark.processes
@pytest.mark.slow
def test_it_grows_with_memory_and_is_kept(toy_run, nmtasync, free, monkeypatch):
    found = []
    for mib in (60, 90):
        free(mib)
        ended = nmtasync("train", toy_run.root, *FIT, "--no-resume")
        assert ended.returncode == 0, ended.stderr
        assert not multiprocessing.active_children(), "the trial has ended"
        found.append(config_of(toy_run))
        assert f"batch_tokens {found[-1]:,}: its batches take up to" in ended.stderr
        assert final_state(toy_run)[1]["config"]["data"]["batch_tokens"] == found[-1]
    assert found[0] > 300 and 1.3 * found[0] < found[1] < 16_384

    def tried_again(*arguments):
        pytest.fail("it is known")

    monkeypatch.setattr(train, "choose_batch_tokens", tried_again)
    for again in (["--max-updates=3"], ["--max-updates=4", "--batch-tokens=fit"]):
        ended = nmtasync("train", toy_run.root, *again)
        assert ended.returncode == 0, ended.stderr
        assert config_of(toy_run) == found[1]
        assert "the rest of epoch" not in ended.stderr, "batches are the same"


@pytest.mark.processes
@pytest.mark.slow
def test_a_small_corpus_and_two_workers_bound_it(toy_run, nmtasync):
    ended = nmtasync("train", toy_run.root, *FIT, "--devices=cpu,cpu")
    assert ended.returncode == 0, ended.stderr
    assert config_of(toy_run) == fitting._share_of(toy_run, 2) < 20


@pytest.mark.processes
def test_where_no_batch_fits_nothing_begins(toy_run, nmtasync, free):
    free(1)
    ended = nmtasync("train", toy_run.root, *FIT)
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if "error" in line)
    assert "data.batch_tokens: is 'fit', but the 1 MiB that are free on cpu suffice for" in line
    assert not toy_run.checkpoints.exists() or not any(toy_run.checkpoints.iterdir())


def test_what_makes_no_sense_is_refused_in_one_line(toy_run, nmtasync):
    for command, line in (
        (
            ["train", toy_run.root, *FIT, "--driver=simulated"],
            "driver is 'simulated'; set a number",
        ),
        (["train", toy_run.root, "--batch-tokens=full"], 'must be a whole number or "fit", not'),
        (["profile", toy_run.root, "--set=data.batch_tokens=fit"], "is 'fit', and only training"),
    ):
        ended = nmtasync(*command)
        assert ended.returncode == 2 and not ended.stdout
        assert "data.batch_tokens" in ended.stderr and line in ended.stderr.splitlines()[-1]
