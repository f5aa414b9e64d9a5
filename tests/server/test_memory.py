"""The tables of docs/memory.md: what the server and its workers allocate."""

from __future__ import annotations

from typing import cast

import torch

from nmtasync.config.load import resolve
from nmtasync.data.shards import ParallelShards
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.server.server import Server
from nmtasync.server.transport import Slot
from nmtasync.worker.own_shards import ShardAccess, WorkerPlace
from nmtasync.worker.worker import Worker
from tests.support.repository import REPOSITORY
from tests.support.servers import SIZE, needed_by
from tests.support.toy import TOY_MODEL


def memory_table(heading: str) -> list[tuple[dict[str, object], str]]:
    """Rows of a part of docs/memory.md: | `option = value, ...` | vectors with N workers |."""
    parts = (REPOSITORY / "docs" / "memory.md").read_text("utf-8").split("# ")
    (text,) = (part for part in parts if part.startswith(heading))
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [
        (dict(_setting(pair) for pair in options.strip("`").split(", ")), vectors)
        for options, vectors in cells
    ]


def test_the_memory_table_is_what_the_server_allocates():
    rows = memory_table("What the server keeps")
    assert len(rows) >= 8
    for chosen, vectors in rows:
        for num_workers in (2, 5):
            needed = needed_by(str(chosen.get("asynchronous.rule", "immediate")))
            config = resolve({"optimizer.smoothing": None}, needed, chosen)
            server = Server(torch.zeros(SIZE), 2, config, num_workers)
            counted = eval(vectors.replace("N", str(num_workers)))
            assert len(server.vectors) == counted, chosen
            assert all(vector.numel() == SIZE for vector in server.vectors.values())


def test_the_memory_table_is_what_workers_allocate(toy_run):
    """Tensors of at least P elements that are reached from the worker and its slots."""
    rows = memory_table("What a worker keeps")
    assert len(rows) >= 4
    for chosen, vectors in rows:
        config = resolve(TOY_MODEL, chosen)
        model = build_model(config.model, 46, 46)
        size = FlatModel(model).size
        slots = [Slot.allocate(size, "cpu") for _ in range(config.asynchronous.num_slots)]
        corpus = ParallelShards.open(toy_run.data / "train")
        place = WorkerPlace(0, access=cast("ShardAccess", object()))
        worker = Worker(place, slots[0].replica(model), corpus, config)
        owners = [*slots, worker.flat, worker.batch_gradient, worker.local, worker.feedback]
        found = {
            value.untyped_storage().data_ptr()
            for owner in owners
            if owner is not None
            for value in vars(owner).values()
            if isinstance(value, torch.Tensor) and value.numel() == size
        }
        assert len(found) == eval(vectors), chosen


def _setting(pair: str) -> tuple[str, object]:
    name, value = pair.split(" = ")
    return name, {"true": True, "false": False}.get(value, _value(value))


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
