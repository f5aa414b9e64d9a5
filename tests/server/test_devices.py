"""What GPUs need of server and transport, as far as it can be had on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.machine import cores as cores_module
from nmtasync.machine import device
from nmtasync.machine.cores import available_cores
from nmtasync.machine.device import (
    refuse_allocator_without_ipc,
    resolve_devices,
)
from nmtasync.server import server as server_module
from nmtasync.server import transport
from nmtasync.server.messages import Push
from nmtasync.server.server import Server
from nmtasync.server.streams import ServerStreams
from nmtasync.server.transport import Slot, page_lock, shared_vector
from nmtasync.training.assembly import Assembly
from nmtasync.training.validation import validator_client
from tests.support.replays import (
    assert_replayed,
    log_of,
    logged,
    replay,
    train_until_both_have_pushed,
)
from tests.support.runs import copy_of
from tests.support.servers import RULES, SIZE, Exchanges, make, make_server, restore_from

SLICES, OWN_MEMORY = None, ["cpu", "cpu"]


def assert_same(left: Server, right: Server) -> None:
    assert left.versions == right.versions and left.numbers() == right.numbers()
    ours, others = left.vectors, right.vectors
    assert ours.keys() == others.keys()
    for name in ours:
        assert torch.equal(ours[name], others[name]), name


@pytest.mark.parametrize("rule", RULES)
def test_shards_with_memory_of_their_own_are_slices_bit_for_bit(rule):
    ours, others = Exchanges(), Exchanges()
    apart, slices = make(rule, OWN_MEMORY), make(rule, SLICES)
    assert ours.make(apart, range(10)) == others.make(slices, range(10)), "update norms, too"
    assert_same(apart, slices)
    assert torch.equal(ours.landing, others.landing)
    copies = {name: torch.zeros(SIZE) for name in apart.names}
    apart.copy_vectors(copies)
    assert all(torch.equal(copies[name], vector) for name, vector in slices.vectors.items())


@pytest.mark.parametrize(("before", "after"), [(SLICES, OWN_MEMORY), (OWN_MEMORY, SLICES)])
@pytest.mark.parametrize("rule", RULES)
def test_a_state_goes_from_one_kind_of_memory_to_the_other(rule, before, after):
    whole, first, second = make(rule, SLICES), make(rule, before), make(rule, after, num_shards=3)
    Exchanges().make(whole, range(11))
    exchanges = Exchanges()
    exchanges.make(first, range(5))
    restore_from(second, first)
    exchanges.versions = {k: (v[0],) * 3 for k, v in exchanges.versions.items()}
    exchanges.make(second, range(5, 11))
    assert whole.versions[0] == second.versions[0]
    for name, vector in whole.vectors.items():
        assert torch.equal(vector, second.vectors[name]), name


def test_each_shard_lies_on_its_device():
    server = make_server(num_shards=5, devices=["cpu", "meta"])
    places = [shard.parameters.device.type for shard in server.shards]
    assert places == ["cpu", "meta", "cpu", "meta", "cpu"]
    assert server.devices == {torch.device("cpu"), torch.device("meta")}
    assert make_server(num_shards=5).devices == {torch.device("cpu")}


def test_slices_are_of_the_very_vectors_and_own_memory_is_not():
    slices, apart = make("immediate", SLICES), make("immediate", OWN_MEMORY)
    for server, shared in ((slices, True), (apart, False)):
        server.shards[0].average.fill_(7.0)
        assert (server.vectors["average"][:64] == 7.0).all()
        assert (server.vectors["average"] is server.vectors["average"]) == shared


class FakeGpus:
    """Notes what streams and events are asked for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        gpus = self

        class Stream:
            def __init__(self, device: torch.device) -> None:
                self.device = device
                gpus.log.append(f"stream on {device}")

            def wait_stream(self, other: str) -> None:
                gpus.log.append(f"{self.device} waits for {other}")

            def record_event(self, event: Event) -> Event:
                event.device = self.device
                gpus.log.append(f"event on {self.device}")
                return event

        class Event:
            device = torch.device("cpu")

            def __init__(self, blocking: bool) -> None:
                assert blocking

            def synchronize(self) -> None:
                gpus.log.append(f"done on {self.device}")

        @contextlib.contextmanager
        def current(stream: Stream) -> Iterator[None]:
            gpus.log.append(f"into {stream.device}")
            yield
            gpus.log.append(f"out of {stream.device}")

        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "stream", current)
        patch.setattr(torch.cuda, "current_stream", lambda device: f"others on {device}")


def test_the_server_waits_for_the_streams_of_all_gpus(monkeypatch):
    gpus = FakeGpus(monkeypatch)
    order = ServerStreams(["cuda:0", "cuda:1", "cuda:0"])
    assert gpus.log == ["stream on cuda:0", "stream on cuda:1"]
    gpus.log.clear()
    with order.completed():
        gpus.log.append("work")
    assert gpus.log == [
        "cuda:0 waits for others on cuda:0",
        "into cuda:0",
        "cuda:1 waits for others on cuda:1",
        "into cuda:1",
        "work",
        "event on cuda:0",
        "event on cuda:1",
        "out of cuda:1",
        "out of cuda:0",
        "done on cuda:0",
        "done on cuda:1",
    ]


def test_on_cpus_there_is_nothing_to_wait_for(monkeypatch):
    gpus = FakeGpus(monkeypatch)
    with ServerStreams(["cpu", "cpu"]).completed():
        pass
    assert gpus.log == []


def test_all_work_of_the_server_is_within_its_streams(monkeypatch):
    """What is there when the work is completed is what is there when the call returns."""
    landing, copies = torch.zeros(SIZE), {}
    seen: list[list[torch.Tensor]] = []

    class Noted(ServerStreams):
        @contextlib.contextmanager
        def completed(self) -> Iterator[None]:
            seen.append(everything())
            yield
            seen.append(everything())

    def everything() -> list[torch.Tensor]:
        return [t.clone() for t in (landing, *server.vectors.values(), *copies.values())]

    monkeypatch.setattr(server_module, "ServerStreams", Noted)
    server = make("delay-compensation", OWN_MEMORY)
    copies = {name: torch.zeros(SIZE) for name in server.names}
    saved = make("delay-compensation", SLICES).vectors
    push = Push(1, 1, server.versions, 5, 1.0)
    for call in (
        lambda: server.fetch(landing, 1),
        lambda: server.exchange(push, torch.ones(SIZE), landing),
        lambda: server.copy_vectors(copies),
        lambda: server.restore(saved, [0], {}, {}, {}),
    ):
        before = everything()
        call()
        begun, ended = seen
        assert all(torch.equal(*pair) for pair in zip(before, begun, strict=True))
        assert all(torch.equal(*pair) for pair in zip(everything(), ended, strict=True))
        assert not all(torch.equal(*pair) for pair in zip(begun, ended, strict=True))
        seen.clear()


def test_a_model_is_laid_out_in_the_slot_on_its_device():
    """Without memory behind it ("meta"), as on any device that is not the CPU."""
    slot = Slot.allocate(64, "meta")
    assert slot.mailbox.device.type == slot.landing.device.type == "meta"
    flat = slot.replica(nn.Linear(3, 5, bias=False))
    assert flat.parameters is slot.landing and flat.gradients is slot.mailbox
    assert {p.device.type for p in flat.model.parameters()} == {"meta"}


def test_too_little_memory_on_the_device_is_said_in_a_sentence(monkeypatch):
    def no_room(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transport.torch, "zeros", no_room)
    with pytest.raises(NmtasyncError, match="cuda:3: has too little memory: 64 MiB"):
        Slot.allocate(2**23, "cuda:3")


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
@pytest.mark.parametrize("wanted", ["expandable_segments:True", "backend:cudaMallocAsync"])
def test_an_allocator_whose_memory_cannot_be_shared_is_refused(monkeypatch, variable, wanted):
    monkeypatch.setenv(variable, f"max_split_size_mb:64, {wanted}")
    with pytest.raises(UserError, match=f"{variable}: asks for {wanted.lower()}"):
        refuse_allocator_without_ipc(["cuda:0", "cuda:0"])
    refuse_allocator_without_ipc(["cuda:0"])
    refuse_allocator_without_ipc(["cpu", "cpu"])
    monkeypatch.setenv(variable, "expandable_segments:False")
    refuse_allocator_without_ipc(["cuda:0", "cuda:0"])


def test_a_vector_is_locked_whole_and_a_refusal_is_an_error(monkeypatch):
    class Runtime:
        locked: tuple[int, int, int] | None = None

        def cudaHostRegister(self, *arguments: int) -> int:  # noqa: N802
            self.locked = arguments
            return 7

    runtime, vector = Runtime(), shared_vector(64)
    results: list[int] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", results.append)
    page_lock(vector, "cuda:0")
    assert runtime.locked == (vector.data_ptr(), 256, 1) and results == [7]


@pytest.mark.processes
def test_a_run_whose_shards_have_memory_of_their_own_is_replayed_with_slices(toy_run, monkeypatch):
    """Two worker processes; the snapshot's vectors would be locked for a GPU; a resume."""
    other, locked = copy_of(toy_run), []
    with monkeypatch.context() as patch:
        patch.setattr(Assembly, "_shard_devices", lambda self: OWN_MEMORY)
        patch.setattr(Server, "devices", {torch.device("cuda:0")})
        patch.setattr(validator_client, "page_lock", lambda vector, device: locked.append(vector))
        train_until_both_have_pushed(toy_run, 6)
        assert [vector.numel() for vector in locked] == [locked[0].numel()] * 4
    train_until_both_have_pushed(toy_run, 6)
    assert len(logged(toy_run, "run")) == 2
    replay(other, log_of(toy_run))
    assert_replayed(toy_run, other)


@pytest.mark.parametrize(
    ("cores", "quota", "available", "workers"),
    [
        (2, None, 2, 2),
        (64, None, 64, 4),
        (64, "max 100000", 64, 4),
        (64, "250000 100000", 3, 3),
        (64, "50000 100000", 1, 1),
        (2, "800000 100000", 2, 2),
    ],
)
def test_auto_takes_no_more_cpus_than_there_are(
    tmp_path, monkeypatch, cores, quota, available, workers
):
    monkeypatch.setattr(cores_module.os, "sched_getaffinity", lambda process: range(cores))
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(cores_module, "CPU_MAX", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_cores() == available
    assert resolve_devices("auto") == ["cpu"] * workers
