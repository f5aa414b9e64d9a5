"""Damaged files for all readers, as many as you like; `make fuzz`.

Each input has a number, from which it is made again. Readers run in processes of their own, with a
limit of memory and of time, so that one that crashes or hangs is found and does not end the rest.
What is neither read nor refused in one line is kept in a folder, with the traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch

from nmtasync.run_directory import RunDirectory
from tests.support.damage import damaged
from tests.support.loaders import LOADERS, Loader, prepare, replaced, verdict

MAX_SECONDS = 30
MAX_BYTES = 1 << 30
"""More memory than this, beside what the process has at its start, no reader may ask for."""

_MEMORY = Path("/dev/shm")
_NAMES = list(LOADERS)
_COUNTS = struct.Struct(f"<{1 + 3 * len(_NAMES)}q")


@dataclass(frozen=True)
class Input:
    """One damaged file.

    Attributes:
        name: Of the reader.
        file: Which file of RUN it is.
        content: What is in it.
    """

    name: str
    file: str
    content: bytes

    @property
    def loader(self) -> Loader:
        """Its reader."""
        return LOADERS[self.name]


def make_input(seed: int, number: int, sound: dict[str, bytes], names: list[str]) -> Input:
    """Make the input of a number for one of the readers; the same one for the same seed."""
    rng = random.Random(f"{seed}:{number}")
    (name,) = rng.choices(names, [LOADERS[name].weight for name in names])
    file = rng.choice(LOADERS[name].files)
    return Input(name, file, damaged(sound[file], rng))


def read_sound(run: RunDirectory) -> dict[str, bytes]:
    """Read the files that are going to be damaged."""
    names = {name for loader in LOADERS.values() for name in loader.files}
    return {name: (run.root / name).read_bytes() for name in sorted(names)}


class Worker:
    """Tries the inputs of one remainder, in a process after the other.

    Args:
        seed: Of all inputs.
        numbers: Those to try.
        names: Of the readers.
        root: Where to put the files that are read.
        out: Where to keep what fails.
    """

    def __init__(self, seed: int, numbers: range, names: list[str], root: Path, out: Path) -> None:
        self.seed, self.numbers, self.names, self.root, self.out = seed, numbers, names, root, out
        self.shared = mmap.mmap(-1, _COUNTS.size)  # where it is, and the counts of each reader
        self.counts = [0] * (_COUNTS.size // 8)
        self.counts[0] = numbers.start
        self._note()
        self.pid = 0
        self.seen, self.since = -1, time.monotonic()

    def _note(self) -> None:
        _COUNTS.pack_into(self.shared, 0, *self.counts)

    def start(self) -> None:
        """Fork a process that goes on where the last one ended."""
        self.counts = list(_COUNTS.unpack_from(self.shared))
        self.since = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._serve()

    def _serve(self) -> NoReturn:
        code = 1
        root = self.root / str(os.getpid())
        root.mkdir()
        try:
            _limit_memory()
            signal.signal(signal.SIGALRM, _time_is_up)
            run = prepare(root / "run")
            sound = read_sound(run)
            for number in range(self.counts[0], self.numbers.stop, self.numbers.step):
                self.counts[0] = number
                self._note()
                run = self._try(make_input(self.seed, number, sound, self.names), run, sound)
            self.counts[0] = self.numbers.stop
            self._note()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            shutil.rmtree(root, ignore_errors=True)
            os._exit(code)

    def _try(self, tried: Input, run: RunDirectory, sound: dict[str, bytes]) -> RunDirectory:
        place = 1 + 3 * _NAMES.index(tried.name)
        replaced(run.root / tried.file, tried.content)
        try:
            signal.alarm(MAX_SECONDS)
            with quiet():
                line = verdict(tried.loader.load, run)
            self.counts[place + (line is not None)] += 1
        except BaseException:
            self.counts[place + 2] += 1
            self.keep(self.counts[0], tried, traceback.format_exc())
        finally:
            signal.alarm(0)
        if tried.loader.slow:
            shutil.rmtree(run.root)
            return prepare(run.root)
        replaced(run.root / tried.file, sound[tried.file])
        return run

    def keep(self, number: int, tried: Input, reason: str) -> None:
        """Keep an input that has found something."""
        folder = self.out / f"{number}-{tried.name.replace(' ', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(tried.file).name).write_bytes(tried.content)
        text = f"seed {self.seed}, input {number}: {tried.file} for {tried.name}\n{reason}"
        (folder / "reason.txt").write_text(text, "utf-8", "backslashreplace")

    def look(self, sound: dict[str, bytes]) -> bool:
        """See how far the process is; start another if it has ended; return whether one works."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        counts = _COUNTS.unpack_from(self.shared)
        if not done:
            if counts[0] != self.seen:
                self.seen, self.since = counts[0], time.monotonic()
            elif time.monotonic() - self.since > 3 * MAX_SECONDS:
                os.kill(self.pid, signal.SIGKILL)
                done, status = os.waitpid(self.pid, 0)
        if not done:
            return True
        if counts[0] >= self.numbers.stop:
            return False
        tried = make_input(self.seed, counts[0], sound, self.names)
        self.keep(counts[0], tried, f"the process ended with status {status}")
        self.counts = list(counts)
        self.counts[0] += self.numbers.step
        self.counts[3 + 3 * _NAMES.index(tried.name)] += 1
        self._note()
        self.start()
        return True

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it takes too long")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let what libraries write to standard error go nowhere."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def counts_of(worker: Worker) -> tuple[int, ...]:
    """Where a worker is, and the counts of each reader: read, refused, anything else."""
    return _COUNTS.unpack_from(worker.shared)


def table(workers: list[Worker]) -> str:
    """Write the counts of all readers."""
    rows = [
        "| reader | inputs | read | refused | anything else |",
        "| --- | --- | --- | --- | --- |",
    ]
    sums = [sum(column) for column in zip(*map(counts_of, workers), strict=True)]
    totals = [0, 0, 0]
    for index, name in enumerate(_NAMES):
        counts = sums[1 + 3 * index : 4 + 3 * index]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        rows.append(_row(name, counts))
    return "\n".join([*rows, _row("in all", totals)])


def _row(name: str, counts: list[int]) -> str:
    return f"| {name} | " + " | ".join(f"{count:,}" for count in (sum(counts), *counts)) + " |"


def watch(workers: list[Worker], sound: dict[str, bytes]) -> None:
    """Let workers work until they are done, or someone interrupts them."""
    for worker in workers:
        worker.start()
    try:
        busy, told = workers, time.monotonic()
        while busy:
            time.sleep(0.2)
            busy = [worker for worker in busy if worker.look(sound)]
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(table(workers).splitlines()[-1], flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        for worker in workers:
            worker.end()


def main() -> int:
    """Try inputs until there are enough; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.many", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--seed", type=int, default=1, help="of all inputs")
    parser.add_argument("--readers", default=",".join(_NAMES), help="which, with commas")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="where to keep finds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names, last = options.readers.split(","), options.first + options.inputs
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="nmtasync-fuzz-", dir=place) as directory:
        root = Path(directory)
        sound = read_sound(prepare(root / "run"))
        workers = [
            Worker(options.seed, range(first, last, options.jobs), names, root, options.out)
            for first in range(options.first, options.first + options.jobs)
        ]
        watch(workers, sound)
    print(table(workers))
    found = sum(sum(counts_of(worker)[3::3]) for worker in workers)
    if found:
        print(f"see {options.out}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
