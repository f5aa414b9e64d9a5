"""Checks of the machine: all that training, its processes and files need of it."""

from __future__ import annotations

import fcntl
import locale
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from nmtasync.doctor.findings import Check, Finding, ok, problem, run_checks, warning
from nmtasync.machine.cores import available_cores
from nmtasync.machine.precision import cpu_flags, has_bf16_units
from nmtasync.machine.processes import Child, ChildEndedError, serving
from nmtasync.server.transport import share

_SHARED = Path("/dev/shm")
_ENOUGH_SHARED_BYTES = 1 << 30
_ENOUGH_DISK_BYTES = 2 << 30
_TRIED_NUMBERS = 1 << 20
_ANSWER_SECONDS = 60


def examine_machine(place: Path) -> Iterator[Finding]:
    """Look at all that commands need of this machine.

    Args:
        place: A directory on the disk that is written to.
    """
    checks: dict[str, Check] = {
        "PyTorch": _pytorch,
        "processors": _processors,
        "bf16": _bf16,
        "GPUs": _gpus,
        "Ray": _ray,
        "shared memory": _shared_memory,
        "processes": _processes,
        "disk": lambda: _disk(place),
        "file locks": lambda: _locks(place),
        "TMPDIR": _temporary,
        "text": _text,
        "HOME": _home,
    }
    return run_checks(checks)


def _pytorch() -> Iterator[Finding]:
    libraries = {"MKL": "mkl", "oneDNN": "mkldnn", "OpenMP": "openmp"}
    products = [
        name for name, key in libraries.items() if getattr(torch.backends, key).is_available()
    ]
    built = f"with {', '.join(products)}" if products else "without libraries for products"
    what = f"{torch.__version__} {built}, Python {platform.python_version()}"
    if products:
        yield ok("PyTorch", what)
    else:
        yield warning("PyTorch", what, "install a build from pytorch.org: this one is slow")


def _processors() -> Iterator[Finding]:
    cores, allowed, there = available_cores(), len(os.sched_getaffinity(0)), os.cpu_count() or 1
    threads = torch.get_num_threads()
    what = f"{cores} of {there} usable; PyTorch takes {threads} threads"
    if cores < allowed:
        what += f"; a quota allows {cores} of the {allowed} that are seen"
    if threads > cores:
        yield warning("processors", what, f"set OMP_NUM_THREADS={cores}, or --threads in training")
    else:
        yield ok("processors", what)


def _bf16() -> Iterator[Finding]:
    units = sorted(flag for flag in cpu_flags() if has_bf16_units({flag}))
    what = ", ".join(units) if units else "no units; fp32 is faster on this CPU"
    yield ok("bf16", what)


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        seen = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
        if not seen:
            yield ok("GPUs", "none")
        elif torch.version.cuda is None:
            yield problem(
                "GPUs",
                f"{', '.join(seen)}, but this PyTorch is built for CPUs",
                "install a build of PyTorch with CUDA",
            )
        else:
            yield problem(
                "GPUs",
                f"{', '.join(seen)}, but PyTorch can't use them",
                "see whether nvidia-smi works, and which driver CUDA "
                f"{torch.version.cuda} needs; look at CUDA_VISIBLE_DEVICES",
            )
        return
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        try:
            matrix = torch.ones(64, 64, device=f"cuda:{index}")
            works = float((matrix @ matrix).sum()) == 64.0**3
            free = torch.cuda.mem_get_info(index)[0]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            yield problem("GPUs", f"cuda:{index} ({name}): {reason}", "see what nvidia-smi shows")
            continue
        what = f"cuda:{index} ({name}), {free / 2**30:.1f} GiB free"
        if works:
            yield ok("GPUs", what)
        else:
            yield problem("GPUs", f"{what}, multiplies wrongly", "use another one, and replace it")


def _ray() -> Iterator[Finding]:
    """Say whether training on several hosts can be asked for; without it, nothing is wrong."""
    try:
        yield ok("Ray", f"{metadata.version('ray')}, for train --driver ray")
    except metadata.PackageNotFoundError:
        what = 'not installed; train --driver ray needs it: pip install "nmtasync[cluster]"'
        yield ok("Ray", what)


def _shared_memory() -> Iterator[Finding]:
    share(torch.zeros(_TRIED_NUMBERS))
    size = shutil.disk_usage(_SHARED)
    what = f"{size.free / 2**20:,.0f} of {size.total / 2**20:,.0f} MiB free"
    if size.free < _ENOUGH_SHARED_BYTES:
        remedy = "with several workers, enlarge it: docker run --shm-size=8g"
        yield warning("shared memory", what, remedy)
    else:
        yield ok("shared memory", what)


def answer(setup: object, connection: Connection) -> None:
    """Serve in a child process: count up what comes, in memory that both see."""
    with serving(connection):
        vector = connection.recv()
        vector.add_(1.0)
        connection.send(len(vector))


def _processes() -> Iterator[Finding]:
    child = Child(answer, None, "doctor")
    try:
        vector = share(torch.zeros(1000))
        child.send(vector)
        if not child.connection.poll(_ANSWER_SECONDS):
            remedy = "see what else runs; try again with --devices cpu, which starts none"
            yield problem("processes", f"a child says nothing for {_ANSWER_SECONDS} s", remedy)
        elif child.receive() == len(vector) and bool((vector == 1.0).all()):
            yield ok("processes", "a child answers, and shares memory")
        else:
            remedy = "see whether a sandbox keeps processes apart"
            yield problem("processes", "a child answers, but shares no memory", remedy)
    except ChildEndedError:
        lines = child.last_words.strip().splitlines() or ["it ended at once"]
        yield problem("processes", lines[-1], "train in one process: --devices cpu")
    finally:
        child.end()


def _disk(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    what = f"{free / 2**30:,.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        yield problem("disk", f"{place} can't be written", "choose another place, or its rights")
    elif free < _ENOUGH_DISK_BYTES:
        yield warning("disk", what, "free some")
    else:
        yield ok("disk", what)


def _locks(place: Path) -> Iterator[Finding]:
    if not os.access(place, os.W_OK):
        return
    with tempfile.TemporaryFile(dir=place) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            remedy = "choose a place on another file system, or mount it with locks"
            yield problem("file locks", f"{place}: {error.strerror}", remedy)
            return
    yield ok("file locks", f"work at {place}")


def _temporary() -> Iterator[Finding]:
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="pymp-", dir=folder) as directory:
        path = f"{directory}/listener-12345678"
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(path)
            except OSError as error:
                remedy = "set TMPDIR to a short path, as /tmp, that holds sockets"
                yield warning("TMPDIR", f"{folder} holds no sockets: {error}", remedy)
                return
    wanted = os.environ.get("TMPDIR")
    if wanted and folder != Path(wanted):
        remedy = "let it name a folder that can be written"
        yield warning("TMPDIR", f"{wanted} can't be used; {folder} is", remedy)
    else:
        yield ok("TMPDIR", f"{folder}")


def _text() -> Iterator[Finding]:
    of_files, of_names = locale.getpreferredencoding(False), sys.getfilesystemencoding()
    of_output = getattr(sys.stdout, "encoding", None) or "none"
    what = f"files {of_files}, names {of_names}, output {of_output}"
    if {name.lower().replace("-", "") for name in (of_files, of_names, of_output)} <= {"utf8"}:
        yield ok("text", what)
    else:
        yield warning("text", what, "set LANG=C.UTF-8, or PYTHONUTF8=1")


def _home() -> Iterator[Finding]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111
    if home.is_dir() and os.access(home, os.W_OK):
        yield ok("HOME", f"{home}")
    else:
        remedy = "set HOME to a folder that can be written; compiled kernels are kept there"
        yield warning("HOME", f"{home} can't be written", remedy)
