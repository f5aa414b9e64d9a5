"""On a GPU what the other tests show on a CPU; sums are taken in other orders there."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
import torch
import torch.multiprocessing as mp

from nmtasync.server.transport import Slot, page_lock, shared_vector
from nmtasync.training.simulation.recording import read_exchange_log
from nmtasync.worker.own_shards import WorkerPlace
from nmtasync.worker.worker import Worker
from tests.support.hosts import host_of
from tests.support.one_worker import OneWorker, plain_loop
from tests.support.processes import children, start_training, wait_for_line
from tests.support.replays import log_of, logged, train_until_both_have_pushed
from tests.support.runs import events, final_state, train_toy, words_of_an_epoch
from tests.support.servers import RULES, SIZE, Exchanges, make
from tests.support.toy import toy_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = "cuda:0"
TWO = {"asynchronous__devices": f"{GPU},{GPU}"}


@pytest.mark.parametrize("num_shards", [1, 3])
def test_one_worker_is_a_plain_loop(toy_run, num_shards):
    config = toy_config(
        asynchronous__optimizer_delay=2,
        optimizer__epsilon=1e-4,
        optimizer__clip_norm=0.05,
        schedule__warmup_updates=3,
    )
    ours = OneWorker(toy_run, config, num_shards, GPU)
    assert ours.server.parameters.is_cuda
    for update, parameters in plain_loop(toy_run, config, num_updates=5, device=GPU):
        ours.push()
        assert torch.allclose(ours.server.parameters, parameters, rtol=0, atol=1e-5), update


@pytest.mark.parametrize("rule", RULES)
def test_shards_on_a_gpu_are_those_on_a_cpu(rule):
    on_gpu, on_cpu = Exchanges(), Exchanges()
    on_gpu.landing = on_gpu.landing.to(GPU)
    ours, reference = make(rule, [GPU]), make(rule, None)
    on_gpu.make(ours, range(10), GPU)
    on_cpu.make(reference, range(10))
    assert ours.versions == reference.versions
    for name, vector in reference.vectors.items():
        assert torch.allclose(ours.vectors[name].cpu(), vector, rtol=1e-4, atol=1e-5), name
    assert torch.equal(on_gpu.landing, ours.parameters)


def test_a_snapshot_is_the_state(toy_run):
    server = make("immediate", [GPU])
    Exchanges().make(server, range(4), GPU)
    copies = {name: shared_vector(SIZE) for name in server.names}
    for vector in copies.values():
        page_lock(vector, GPU)
    server.copy_vectors(copies)
    for name, vector in server.vectors.items():
        assert torch.equal(copies[name], vector.cpu()), name
    again = make("immediate", [GPU], num_shards=2)
    again.restore(copies, server.versions, {}, server.numbers(), server.measured.to_json())
    for name, vector in server.vectors.items():
        assert torch.equal(again.vectors[name], vector), name


def double_what_lands(slot: Slot, connection) -> None:
    connection.recv()
    torch.mul(slot.landing, 2, out=slot.mailbox)
    slot.complete()
    connection.send("done")


def test_a_process_and_its_replacement_share_a_slot_with_the_server():
    slot, context = Slot.allocate(SIZE, GPU), mp.get_context("spawn")
    for value in (3.0, 5.0):
        here, there = context.Pipe()
        process = context.Process(target=double_what_lands, args=(slot, there))
        process.start()
        slot.landing.fill_(value)
        slot.complete()
        here.send("go")
        assert here.poll(100) and here.recv() == "done"
        assert (slot.mailbox == 2 * value).all()
        process.kill()
        process.join()


def test_two_workers_on_one_gpu_train_and_their_log_can_be_read(toy_run):
    train_until_both_have_pushed(toy_run, 6, **TWO)
    recording = read_exchange_log(log_of(toy_run))
    assert recording.num_workers == 2
    assert {push["worker"] for push in logged(toy_run, "push")} == {0, 1}
    vectors, state = final_state(toy_run)
    assert all(vector.isfinite().all() for vector in vectors.values())
    summary = train_toy(toy_run, training__max_updates=state["updates"] + 2, **TWO)
    assert summary.updates == state["updates"] + 2, "resumed"


def test_two_workers_on_one_gpu_learn(toy_run):
    train_toy(
        toy_run,
        training__max_epochs=4,
        training__log_every_seconds=0.0,
        schedule__learning_rate=1e-2,
        schedule__warmup_updates=10,
        **TWO,
    )
    losses = [line["loss"] for line in events(toy_run, "train")]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_a_killed_worker_is_replaced(toy_run):
    process = start_training(
        toy_run, f"--devices={GPU},{GPU}", "--set=training.log_every_seconds=0", "--max-epochs=60"
    )
    wait_for_line(process, "update", "loss")
    os.kill(children(process.pid)[1], signal.SIGKILL)  # the validator is the first
    wait_for_line(process, "killed by signal 9")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    happened = Counter(entry["what"] for entry in events(toy_run, "worker"))
    assert happened == {"was killed by signal 9 (SIGKILL)": 1}
    _, state = final_state(toy_run)
    assert state["progress"]["target_words"] == 60 * words_of_an_epoch(toy_run)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices_of_a_host_compute_what_one_does_for_both(toy_run):
    config = toy_config(
        optimizer__epsilon=1e-4,
        asynchronous__local_optimizer_batches="always",
        asynchronous__local_push="delta",
    )
    alone = OneWorker(toy_run, config, device=GPU)
    one = Worker(WorkerPlace(0, num_devices=2), alone.flat, alone.worker.gradient.corpus, config)
    one.versions = (0,)
    window = [next(alone.batches) for _ in range(4)]
    one.compute(window)
    with host_of(toy_run, config, num_devices=2, device=GPU) as host:
        host.compute(window)
        assert torch.allclose(host.flat.parameters, one.flat.parameters, rtol=0, atol=1e-5)
        assert torch.allclose(host.flat.gradients, one.flat.gradients, rtol=1e-3, atol=1e-2)
