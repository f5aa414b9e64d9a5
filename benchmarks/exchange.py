"""How long a push and a fetch take, against the least that they must do on this machine.

A worker process and this one, the server, exchange as `nmtasync train` lets them: a gradient in
shared memory, a header through a pipe, one Adam update, the parameters in shared memory. The
floor is a bare memmove of the parameters and one step of torch's fused Adam, with as many threads.
Exchange and floor take turns; medians of all turns, with the middle half of them. A late push
looks ahead along the momentum, which takes a pass more.

With `--exchange-precision bf16` the server rounds what it hands out. "error feedback" is what the
worker does before, when it has computed; it is no part of the exchange.

With `--device cuda` all of it lies on a GPU: the worker's slot by CUDA IPC, the shard, and the
floor, which is a copy from device memory to device memory and one fused step there.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
import torch.multiprocessing as mp

from nmtasync.config.schema import AsynchronousConfig, Config, OptimizerConfig
from nmtasync.machine.device import resolve_device
from nmtasync.server.messages import Push
from nmtasync.server.server import Server
from nmtasync.server.transport import Slot, shared_vector
from nmtasync.training.asynchronous.worker_process import Task
from nmtasync.worker.error_feedback import ErrorFeedback

WORDS = 3_000


def push_and_fetch(slot: Slot, connection: Connection, staleness: int) -> None:
    """The worker: write a gradient, wait for the start, exchange, say how long it took."""
    torch.set_num_threads(1)
    size = slot.mailbox.numel()
    gradient = torch.randn(1 << 20, device=slot.mailbox.device) * WORDS
    for sequence in range(1, 10**9):
        for start in range(0, size, len(gradient)):
            part = slot.mailbox[start : start + len(gradient)]
            part.copy_(gradient[: len(part)])
        slot.complete()
        connection.send("ready")
        if connection.recv() == "end":
            return
        begin = time.perf_counter()
        base = max(0, sequence - 1 - staleness)
        connection.send(Push(0, sequence, (base,), WORDS, gradient_norm=1.0))
        assert isinstance(connection.recv(), Task)
        connection.send(time.perf_counter() - begin)


class Exchange:
    """A server with one worker process."""

    def __init__(
        self, size: int, smoothing: float | None, staleness: int, device: str, precision: str
    ) -> None:
        options = AsynchronousConfig(exchange_precision=precision)
        config = Config(optimizer=OptimizerConfig(smoothing=smoothing), asynchronous=options)
        self.feedback = ErrorFeedback(size, torch.device(device), options)
        self.gradient = torch.randn(size, device=device)
        devices = None if device == "cpu" else [device]
        self.server = Server(torch.zeros(size), 1, config, num_workers=1, devices=devices)
        self.slot = Slot.allocate(size, device)
        context = mp.get_context("spawn")
        self.connection, there = context.Pipe()
        arguments = (self.slot, there, staleness)
        self.process = context.Process(target=push_and_fetch, args=arguments, daemon=True)
        self.process.start()
        there.close()

    def seconds(self) -> float:
        """Take one push, as the local driver does, and return the worker's time."""
        assert self.connection.recv() == "ready"
        self.connection.send("go")
        push = self.connection.recv()
        reply = self.server.exchange(push, self.slot.mailbox, self.slot.landing)
        self.connection.send(Task([], reply.versions))
        seconds = self.connection.recv()
        assert isinstance(seconds, float)
        return seconds

    def round(self) -> None:
        """Leave in a gradient what is pushed, as a worker does before its push."""
        self.feedback.split(self.gradient, pushes=0)
        torch.get_device_module(self.gradient.device).synchronize(self.gradient.device)

    def close(self) -> None:
        """End the worker."""
        self.connection.recv()
        self.connection.send("end")
        self.process.join()


class Floor:
    """The bare work: a copy and a fused Adam step."""

    def __init__(self, size: int, device: str) -> None:
        self.device = device
        self.parameters = torch.nn.Parameter(torch.zeros(size, device=device))
        self.parameters.grad = torch.randn(size, device=device)
        self.landing = shared_vector(size) if device == "cpu" else self.parameters.data.clone()
        self.adam = torch.optim.Adam([self.parameters], lr=1e-3, fused=True)

    def copy(self) -> None:
        """Copy the parameters: on a CPU with the C library's own function."""
        if self.device == "cpu":
            num_bytes = 4 * self.parameters.numel()
            ctypes.memmove(self.landing.data_ptr(), self.parameters.data_ptr(), num_bytes)
        else:
            self.landing.copy_(self.parameters.data)
            torch.cuda.synchronize(self.device)

    def step(self) -> None:
        """Make one step."""
        self.adam.step()
        torch.get_device_module(self.device).synchronize(self.device)


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(
    size: int, smoothing: float | None, staleness: int, turns: int, device: str, precision: str
) -> None:
    """Print a table for one setting."""
    exchange = Exchange(size, smoothing, staleness, device, precision)
    floor = Floor(size, device)
    works = {"copy": floor.copy, "fused Adam step": floor.step}
    if precision != "fp32":
        works["error feedback"] = exchange.round
    rows: dict[str, list[float]] = {name: [] for name in (*works, "exchange")}
    for turn in range(turns + 3):
        row = *map(timed, works.values()), exchange.seconds()
        if turn >= 3:  # before that, memory is touched for the first time
            for times, seconds in zip(rows.values(), row, strict=True):
                times.append(seconds)
    exchange.close()
    print(
        f"\n{size / 1e6:.0f} million parameters, smoothing {smoothing or 'off'}, "
        f"pushes {staleness} updates late, {precision}"
    )
    gigabytes = 2 * 4 * size / 1e9  # read and written
    print(f"  copied at        {gigabytes / statistics.median(rows['copy']):8.2f} GB/s")
    rows["floor"] = [a + b for a, b in zip(rows["copy"], rows["fused Adam step"], strict=True)]
    rows["ratio"] = [a / b for a, b in zip(rows["exchange"], rows["floor"], strict=True)]
    for name, times in rows.items():
        low, middle, high = statistics.quantiles(times, n=4)
        unit, factor = ("", 1.0) if name == "ratio" else (" ms", 1000.0)
        print(
            f"  {name:16} {middle * factor:8.2f}{unit:3} "
            f"({low * factor:.2f} to {high * factor:.2f})"
        )


def main() -> None:
    """Measure without and with the moving average, and pushes that are one update late."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=60_000_000)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1, help="of server and floor")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--exchange-precision", default="fp32", help="fp32, bf16 or fp16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = -(-arguments.parameters // 64) * 64
    device = resolve_device(arguments.device)
    print(f"on {device}; threads of the server and of the floor: {arguments.threads}")
    for smoothing, staleness in ((None, 0), (1e-4, 0), (None, 1)):
        precision = arguments.exchange_precision
        measure(size, smoothing, staleness, arguments.turns, device, precision)


if __name__ == "__main__":
    main()
