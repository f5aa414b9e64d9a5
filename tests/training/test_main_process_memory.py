"""What the main process holds while it trains is what docs/memory.md says, also after a resume."""

from __future__ import annotations

import gc

import pytest
import torch

from nmtasync.training.session import Session
from tests.support.repository import REPOSITORY
from tests.support.runs import train_toy

SERVER, WORKER = 4, 2
"""S and W of the page, with Adam and smoothing, and without overlap and local optimizers."""
DRIVERS = {
    "several workers on CPUs": {"asynchronous__devices": "cpu,cpu"},
    "several workers on CPUs, `asynchronous.overlap = true`": {
        "asynchronous__devices": "cpu,cpu",
        "asynchronous__overlap": True,
    },
    "synchronous, on CPUs": {
        "asynchronous__devices": "cpu,cpu",
        "asynchronous__driver": "synchronous",
    },
    "one worker beside the server": {},
    "simulated workers": {"asynchronous__driver": "simulated", "simulation__speeds": "1,1"},
}


def pages_count(driver: str) -> int:
    """The vectors of the main process with two workers, its own and shared ones."""
    page = (REPOSITORY / "docs" / "memory.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines()]
    ((own, shared),) = (row[2:] for row in rows if row[:2] == [driver, "main"])
    return sum(eval(cell, {"S": SERVER, "W": WORKER, "N": 2}) for cell in (own, shared))


def float_storages() -> dict[int, torch.UntypedStorage]:
    """All memory that float32 tensors of this process have, by its address.

    Tensors without memory, which compiling leaves behind, are of other types.
    """
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    tensors = [item for item in gc.get_objects() if type(item) in kinds]
    storages = [t.untyped_storage() for t in tensors if t.dtype == torch.float32]
    return {storage.data_ptr(): storage for storage in storages}


def vectors_while_training(monkeypatch, run, **changes) -> list[float]:
    """How much the main process has more than before it trained, in multiples of P, each update."""
    before = float_storages()
    seen: dict[int, float] = {}
    stop_reason = Session.stop_reason

    def counted(self: Session) -> str | None:
        updates = self.server.updates
        if updates not in seen:
            new = float_storages().items() - before.items()
            seen[updates] = sum(storage.nbytes() for _, storage in new) / 4 / self.server.size
        return stop_reason(self)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_reason", counted)
        train_toy(run, **changes)
    return list(seen.values())


@pytest.mark.processes
@pytest.mark.parametrize("driver", DRIVERS)
def test_the_main_process_holds_what_the_page_says(driver, toy_run, monkeypatch):
    """Networks with learned positions have no tables beside their parameters."""
    changes = {**DRIVERS[driver], "training__validate_every": 2, "model__positions": "learned"}
    for max_updates in (4, 8):
        counts = vectors_while_training(
            monkeypatch, toy_run, training__max_updates=max_updates, **changes
        )
        assert counts == pytest.approx([pages_count(driver)] * len(counts), abs=0.01)
