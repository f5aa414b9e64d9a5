"""Small servers with every rule, and pushes for them."""

from __future__ import annotations

import torch

from nmtasync.config import rules
from nmtasync.config.load import resolve
from nmtasync.server.messages import Push, Reply
from nmtasync.server.server import Server
from nmtasync.server.sparse import pack
from nmtasync.server.wire import Wire

SIZE = 64 * 6
FLAT = {"schedule.warmup_updates": 0, "schedule.decay": "none", "optimizer.smoothing": None}
DELTAS = {"asynchronous.local_optimizer_batches": "always", "asynchronous.local_push": "delta"}
SGD = {"optimizer.name": "sgd", "optimizer.momentum": 0.0, "optimizer.nesterov": False}


def needed_by(rule: str) -> dict[str, object]:
    """The options without which a rule is refused."""
    pushed = [rules.RULES[part].local_push for part in rule.split("+")]
    return DELTAS if any(needs and needs[0] == "delta" for needs in pushed) else {}


RULES = {
    rule: needed_by(rule)
    for rule in (
        *rules.RULES,
        "buffer+staleness-aware",
        "delay-compensation+buffer+staleness-aware",
        "outer-nesterov+staleness-aware",
    )
}


def make_server(
    num_workers: int = 3,
    num_shards: int = 2,
    devices: list[str] | None = None,
    **changes: object,
) -> Server:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    start = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    return Server(start, num_shards, resolve(FLAT, named), num_workers, devices)


def restore_from(server: Server, saved: Server) -> None:
    """Let a server go on from where another one is."""
    measured = saved.measured.to_json()
    numbers = saved.last_sequences, saved.numbers(), measured
    server.restore(saved.vectors, saved.versions, *numbers)


def gradients(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(SIZE, generator=generator) for _ in range(number)]


def make(rule: str, devices: list[str] | None, num_shards: int = 4) -> Server:
    """A server whose shards are slices of one vector, or have memory of their own."""
    options = {key.replace(".", "__"): value for key, value in RULES[rule].items()}
    options["optimizer__smoothing"] = 0.1
    return make_server(3, num_shards, devices, asynchronous__rule=rule, **options)


class Exchanges:
    """Three workers that push one after another, every other time only a few values."""

    def __init__(self) -> None:
        self.versions: dict[int, tuple[int, ...]] = {}
        self.landing = torch.zeros(SIZE)

    def make(self, server: Server, numbers: range, device: str = "cpu") -> list[Reply]:
        """Exchange the pushes of these numbers, which lie on this device."""
        replies = []
        for number, gradient in enumerate(gradients(numbers.stop)):
            if number not in numbers:
                continue
            worker, count, payload = number % 3, None, gradient.to(device, copy=True)
            if worker not in self.versions:
                self.versions[worker] = server.fetch(self.landing, worker)
            if number % 2:
                payload[payload.abs() < 1.5] = 0.0
                count = pack(payload, Wire("fp32"))
                assert count, "or no push is sparse"
            base = self.versions[worker]
            push = Push(worker, 1 + number // 3, base, 5, 1.0, count)
            replies.append(server.exchange(push, payload, self.landing, measure_update=True))
            self.versions[worker] = replies[-1].versions
        return replies
