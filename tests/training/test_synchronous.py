"""Synchronous training: it equals one worker with the delay of all, whatever dies on the way."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.checkpoints import store
from nmtasync.config.load import resolve
from nmtasync.errors import TrainingError, UserError
from nmtasync.machine.device import refuse_repeated_gpus
from nmtasync.optim.flat import SHARD_ALIGNMENT
from nmtasync.run_directory import RunDirectory
from nmtasync.server import shard
from nmtasync.training.synchronous import rounds
from nmtasync.training.synchronous.collectives import rank_bounds
from nmtasync.training.synchronous.owned_shard import OwnedShard
from nmtasync.training.synchronous.rank_process import RankSetup, run_rank
from nmtasync.worker import gradient
from tests.support.processes import children, start_training, wait_for_line, wait_gone
from tests.support.runs import events, final_state, learnt, train_toy, words_of_an_epoch

# the gradient of a layer norm is summed over the threads
UNCLIPPED = {"optimizer__clip_norm": None, "asynchronous__threads": 1}


def ranks(number: int) -> dict[str, object]:
    devices = ",".join(["cpu"] * number)
    return {"asynchronous__driver": "synchronous", "asynchronous__devices": devices}


def one_worker(delay: int) -> dict[str, object]:
    return {
        "asynchronous__driver": "local",
        "asynchronous__devices": "cpu",
        "asynchronous__optimizer_delay": delay,
    }


@pytest.fixture
def reference(tmp_path: Path, toy_run: RunDirectory):
    """Train one worker with a delay on a copy of the corpus; return its last state."""

    def train(delay: int, **options: object) -> tuple[dict[str, torch.Tensor], dict]:
        run = RunDirectory(shutil.copytree(toy_run.root, tmp_path / "reference"))
        train_toy(run, **one_worker(delay), **options)
        return final_state(run)

    return train


def same_state(run: RunDirectory, expected: tuple[dict[str, torch.Tensor], dict]) -> None:
    vectors, state = final_state(run)
    assert learnt(state) == learnt(expected[1])
    for clock in ("updates", "batches"):
        assert state[clock] == expected[1][clock]
    assert vectors.keys() == expected[0].keys()
    for name, vector in vectors.items():
        assert torch.equal(vector, expected[0][name]), name


@pytest.mark.processes
@pytest.mark.parametrize("number", [1, 3])
def test_an_epoch_of_ranks_is_one_worker_with_their_number_as_delay(toy_run, reference, number):
    """Bit for bit; where three ranks share what is left of the epoch, some have no batch."""
    options = {**UNCLIPPED, "training__max_epochs": 1, "data__batch_tokens": 110}
    expected = reference(number, **options)
    assert number == 1 or expected[1]["batches"] % number, "or no rank goes without"
    summary = train_toy(toy_run, **ranks(number), **options)
    same_state(toy_run, expected)
    assert summary.epochs == 1
    assert summary.target_words == words_of_an_epoch(toy_run)
    assert set(summary.workers) == set(range(number))


@pytest.mark.processes
def test_resumed_from_and_into_other_drivers_is_never_interrupted_bit_for_bit(toy_run, reference):
    expected = reference(2, training__max_updates=9, **UNCLIPPED)
    train_toy(toy_run, training__max_updates=3, **one_worker(2), **UNCLIPPED)
    two = {**ranks(2), "asynchronous__optimizer_delay": 1, "training__validate_every": 2}
    train_toy(toy_run, training__max_updates=5, **two, **UNCLIPPED)
    train_toy(toy_run, training__max_updates=7, **two, **UNCLIPPED)
    train_toy(toy_run, training__max_updates=9, **one_worker(2), **UNCLIPPED)
    same_state(toy_run, expected)
    assert events(toy_run, "valid")[-1]["updates"] == 9


@pytest.mark.processes
def test_a_linear_decay_is_that_of_one_worker(toy_run, reference):
    options = {**UNCLIPPED, "schedule__decay": "linear", "training__max_updates": 6}
    expected = reference(2, **options)
    train_toy(toy_run, **ranks(2), **options)
    same_state(toy_run, expected)


@pytest.mark.processes
def test_the_norm_of_the_sum_is_clipped_whatever_the_order_of_the_sum(toy_run, reference):
    # with a usual epsilon Adam makes whole steps of gradients that are only rounding errors
    options = {"optimizer__clip_norm": 0.05, "optimizer__epsilon": 1e-4, "model__dropout": 0.0}
    options |= {"training__max_updates": 5, "training__log_every_seconds": 0.0}
    expected, state = reference(4, **options)
    train_toy(toy_run, asynchronous__optimizer_delay=2, **ranks(2), **options)
    vectors, own_state = final_state(toy_run)
    assert own_state["progress"]["target_words"] == state["progress"]["target_words"]
    assert all(line["gradient_norm"] > 0.05 for line in events(toy_run, "train")), "or none is"
    for name, vector in vectors.items():
        assert torch.allclose(vector, expected[name], atol=1e-6, rtol=0.0), name


@pytest.mark.processes
def test_ranks_that_keep_their_vectors_to_themselves_do_the_same(toy_run, reference, monkeypatch):
    """What GPUs do, with Gloo in place of NCCL; a death takes them back to the last snapshot."""
    options = {"training__max_updates": 7, "training__validate_every": 3, **UNCLIPPED}
    expected = reference(2, **options)
    monkeypatch.setattr(rounds, "works_in_shared_memory", lambda devices: False)
    dying = functools.partial(dying_rank, ["with its gradient half done"])
    monkeypatch.setattr(rounds, "run_rank", dying)
    train_toy(toy_run, **ranks(2), **options)
    same_state(toy_run, expected)
    assert len(events(toy_run, "worker")) == 1


@given(blocks=st.integers(1, 40), number=st.integers(1, 9))
def test_the_shards_of_ranks_are_aligned_equal_and_everything(blocks, number):
    size = blocks * SHARD_ALIGNMENT
    bounds = rank_bounds(size, number)
    assert [i for each in bounds for i in range(size)[each]] == list(range(size))
    lengths = [each.stop - each.start for each in bounds]
    assert all(each.start % SHARD_ALIGNMENT == 0 for each in bounds)
    assert all(length == lengths[0] for length in lengths[: size // lengths[0]])


def dying_rank(instants: list[str], setup: RankSetup, connection: Connection) -> None:
    """A rank 1 that is killed once at each of the instants."""

    def die(instant: str) -> None:
        flag = setup.parts.run.root / f"died {instant}"
        planned = instant in instants
        if setup.index == 1 and planned and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    add, update, smooth = gradient.add_gradient, OwnedShard.update, shard.smooth
    version = 0

    def add_gradient(*arguments):
        figures = add(*arguments)
        if version == 4:
            die("with its gradient half done")
        return figures

    def dying_update(self, total, target_words, number, *others):
        nonlocal version
        version = number + 1
        rate = update(self, total, target_words, number, *others)
        if number == 4:
            die("after its own update")
        return rate

    def dying_smooth(*arguments):
        if version == 5:
            die("in its own update")
        smooth(*arguments)

    gradient.add_gradient = add_gradient
    OwnedShard.update = dying_update
    shard.smooth = dying_smooth
    run_rank(setup, connection)


def rank_failing_after_the_snapshot(setup: RankSetup, connection: Connection) -> None:
    """A rank whose fifth update always fails."""
    update = OwnedShard.update

    def failing_update(self, total, target_words, version, *others):
        if version == 4:
            raise OSError("a broken device")
        return update(self, total, target_words, version, *others)

    OwnedShard.update = failing_update
    run_rank(setup, connection)


@pytest.mark.processes
def test_what_always_fails_after_going_back_is_given_up(toy_run, monkeypatch):
    """The updates between the snapshot and the failure, made again and again, are no progress."""
    monkeypatch.setattr(rounds, "works_in_shared_memory", lambda devices: False)
    monkeypatch.setattr(rounds, "run_rank", rank_failing_after_the_snapshot)
    options = {"training__max_updates": 7, "training__validate_every": 3, **ranks(2)}
    with pytest.raises(TrainingError, match="ended 2 times without an update between"):
        train_toy(toy_run, asynchronous__max_restarts=1, **options)
    assert store.pointed(toy_run, "latest") == 3


@pytest.mark.processes
def test_a_rank_killed_at_any_instant_changes_nothing(toy_run, reference, monkeypatch):
    """The first time the state is whole, then twice not: back to the snapshot of update 3."""
    expected = reference(2, training__max_updates=7, training__validate_every=3, **UNCLIPPED)
    instants = ["with its gradient half done", "in its own update", "after its own update"]
    monkeypatch.setattr(rounds, "run_rank", functools.partial(dying_rank, instants))
    rewinds = []
    rewind = rounds.SynchronousDriver._rewind

    def noted(self):
        rewind(self)
        rewinds.append(self.session.server.updates)

    monkeypatch.setattr(rounds.SynchronousDriver, "_rewind", noted)
    options = {"training__max_updates": 7, "training__validate_every": 3, **UNCLIPPED}
    train_toy(toy_run, **ranks(2), **options)
    same_state(toy_run, expected)
    assert rewinds == [3, 3]
    happened = [(entry["worker"], entry["what"]) for entry in events(toy_run, "worker")]
    assert happened == [(1, "was killed by signal 9 (SIGKILL)")] * 3


def failing_rank(setup: RankSetup, connection: Connection) -> None:
    """A rank that fails in its third update, again and again."""

    def fail(self, total, target_words, version, *others):
        if version == 2:
            raise ArithmeticError("no more")
        return update(self, total, target_words, version, *others)

    update, OwnedShard.update = OwnedShard.update, fail
    run_rank(setup, connection)


@pytest.mark.processes
def test_ranks_that_never_get_on_end_training_with_the_state_saved(toy_run, monkeypatch):
    monkeypatch.setattr(rounds, "run_rank", failing_rank)
    with pytest.raises(TrainingError, match=r"ended 1 times.*ArithmeticError: no more"):
        train_toy(toy_run, asynchronous__max_restarts=0, **ranks(2))
    assert store.pointed(toy_run, "latest") == 2
    (log,) = toy_run.logs.glob("worker-?.log")  # of the one that was first
    assert "Traceback" in log.read_text("utf-8")


ENDLESS = (
    "--driver=synchronous",
    "--devices=cpu,cpu",
    "--set=training.log_every_seconds=0",
    "--set=optimizer.clip_norm=none",
    "--threads=1",
    "--validate-every=1000000",
)


@pytest.mark.processes
def test_a_rank_killed_at_no_special_moment_through_the_command_line(toy_run, reference):
    expected = reference(2, training__max_epochs=20, training__validate_every=10**6, **UNCLIPPED)
    process = start_training(toy_run, *ENDLESS, "--max-epochs=20")
    wait_for_line(process, "update", "loss")
    os.kill(children(process.pid)[2], signal.SIGKILL)  # the validator is the first
    wait_for_line(process, "killed by signal 9")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    happened = Counter(entry["what"] for entry in events(toy_run, "worker"))
    assert happened == {"was killed by signal 9 (SIGKILL)": 1}
    same_state(toy_run, expected)
    assert expected[1]["progress"]["target_words"] == 20 * words_of_an_epoch(toy_run)


@pytest.mark.processes
def test_a_signal_saves_and_one_worker_goes_on(toy_run, reference):
    process = start_training(toy_run, *ENDLESS)
    wait_for_line(process, "update", "loss")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "Warning" not in errors and "Go on with: nmtasync train" in output
    stopped = store.pointed(toy_run, "latest")
    assert stopped
    train_toy(toy_run, training__max_updates=stopped + 2, **one_worker(2), **UNCLIPPED)
    same_state(toy_run, reference(2, training__max_updates=stopped + 2, **UNCLIPPED))


@pytest.mark.processes
def test_kill_9_leaves_no_process_behind(toy_run):
    process = start_training(toy_run, *ENDLESS)
    wait_for_line(process, "update", "loss")
    left = children(process.pid)
    assert len(left) == 3
    process.kill()
    process.communicate(timeout=60)
    for pid in left:
        wait_gone(pid)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("local_optimizer_batches", 5),
        ("local_beta1", 0.5),
        ("local_beta2", 0.5),
        ("num_shards", 4),
    ],
)
def test_options_of_asynchronous_workers_are_refused(option, value):
    settings = {
        "asynchronous.driver": "synchronous",
        "asynchronous.optimizer_delay": 2,
        f"asynchronous.{option}": value,
    }
    with pytest.raises(UserError, match=rf"{option}.*asynchronous\.driver"):
        resolve(settings)


def test_a_gpu_is_no_two_ranks():
    refuse_repeated_gpus(["cpu", "cpu"])
    refuse_repeated_gpus(["cuda:0", "cuda:1"])
    with pytest.raises(UserError, match="names a GPU twice in cuda:0,cuda:0"):
        refuse_repeated_gpus(["cuda:0", "cuda:0"])
