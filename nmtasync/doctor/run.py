"""Checks of a RUN: whether its files are those that were written, and belong together."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nmtasync.checkpoints import store
from nmtasync.checkpoints.checksums import MODEL, TRAINING, damage
from nmtasync.checkpoints.history import ValidationHistory
from nmtasync.checkpoints.load import read_state
from nmtasync.config.experiment import experiment_config
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.doctor.findings import (
    Check,
    Finding,
    Status,
    of_error,
    ok,
    problem,
    run_checks,
    warning,
)
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, sha256

_LEFTOVERS = (".*.tmp", ".*.old", ".*.ready", "*/.*.tmp", "*/.*.old")
_CHECKPOINTS_AHEAD = 2


def examine_run(run: RunDirectory) -> Iterator[Finding]:
    """Look at all files of a RUN; nothing in it is changed."""
    begin: dict[str, Check] = {"lock": lambda: _lock(run), "manifest": lambda: _manifest(run)}
    findings = list(run_checks(begin))
    yield from findings
    if any(finding.status is Status.PROBLEM for finding in findings):
        return  # without a manifest nothing tells what should be there
    checks: dict[str, Check] = {
        "config": lambda: _config(run),
        "data": lambda: _data(run),
        "corpus": lambda: _corpus(run),
        "checkpoints": lambda: _checkpoints(run),
        "pointers": lambda: _pointers(run),
        "validations": lambda: _validations(run),
        "leftovers": lambda: _leftovers(run),
        "room": lambda: _room(run),
    }
    yield from run_checks(checks)


def _is_locked(run: RunDirectory) -> bool:
    path = run.root / ".lock"
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock(run: RunDirectory) -> Iterator[Finding]:
    if _is_locked(run):
        yield warning(
            "lock",
            "another nmtasync process works in RUN; files may change under these checks",
            "wait for it, or stop it, before you begin anything here",
        )
    else:
        yield ok("lock", "nobody works in RUN")


def _manifest(run: RunDirectory) -> Iterator[Finding]:
    manifest = run.read_manifest()
    yield ok("manifest", f"lists {len(manifest['outputs'])} files")


def _config(run: RunDirectory) -> Iterator[Finding]:
    config = experiment_config(run, {})
    yield ok("config", f"{config.model.type}, driver {config.asynchronous.driver}")


def _data(run: RunDirectory) -> Iterator[Finding]:
    """Compare the files of data and vocabulary with the manifest."""
    remedy = "copy it again from where RUN came from, or preprocess again into a new directory"
    outputs, wrong = run.read_manifest()["outputs"], 0
    for name, digest in outputs.items():
        path = run.root / name
        if not path.is_file():
            yield problem("data", f"{name} is missing", remedy)
        elif sha256(path) != digest:
            yield problem("data", f"{name} has changed since it was written", remedy)
        else:
            continue
        wrong += 1
    if not wrong:
        yield ok("data", f"{len(outputs)} files are as they were written")


def _corpus(run: RunDirectory) -> Iterator[Finding]:
    if "imported" in run.read_manifest():
        yield ok("corpus", "none: the model is of another program")
        return
    vocabularies = VocabularyPair.load(run.vocab)
    sizes = vocabularies.source.size, vocabularies.target.size
    counts = []
    for part in ("train", "valid"):
        corpus = ParallelShards.open(run.data / part)
        corpus.refuse_other_vocabulary(*sizes)
        counts.append(f"{len(corpus):,} pairs to {part}")
    yield ok("corpus", f"{', '.join(counts)}; vocabularies of {sizes[0]:,} and {sizes[1]:,}")


def _checkpoints(run: RunDirectory) -> Iterator[Finding]:
    numbers = store.list_checkpoints(run)
    if not numbers:
        yield ok("checkpoints", "none yet")
        return
    vocabulary = VocabularyPair.load(run.vocab).digest()
    resumable = []
    names: list[int | str] = [*numbers, *store.list_averages(run)]
    for name in names:
        directory = run.checkpoints / str(name)
        with_vectors = (directory / TRAINING).exists()
        fault = damage(directory, MODEL, *([TRAINING] if with_vectors else []))
        try:
            if fault is None:
                read_state(run, name, vocabulary)
        except UserError as error:
            fault = error
        if fault is not None:
            found = of_error("checkpoints", fault)
            others = ", ".join(str(other) for other in numbers if other != name)
            remedy = "bring it back from a copy, or delete it"
            if others:
                remedy += f" and go on from another: there are {others}"
            yield problem("checkpoints", found.what, remedy)
        else:
            yield ok("checkpoints", f"{name} is whole")
            if with_vectors:
                resumable.append(name)
    if not resumable and "imported" not in run.read_manifest():
        yield problem(
            "checkpoints",
            "none can be gone on from",
            f"begin another run with --init-from {run.root}, or anew with --no-resume",
        )


def _pointers(run: RunDirectory) -> Iterator[Finding]:
    numbers = store.list_checkpoints(run)
    for name in ("latest", "best"):
        try:
            number = store.pointed(run, name)
        except UserError as error:
            yield of_error("pointers", error)
            continue
        if number is None and (not numbers or name == "best"):
            yield ok("pointers", f"there is no {name} yet")
        elif number is None or number not in numbers:
            what = f"{name} is missing" if number is None else f"{name} names {number}"
            have = ", ".join(map(str, numbers)) or "none"
            yield problem(
                "pointers",
                f"{what}; of checkpoints there are: {have}",
                f"write the number of one into {run.checkpoints / name}",
            )
        else:
            yield ok("pointers", f"{name} is {number}")


def _validations(run: RunDirectory) -> Iterator[Finding]:
    history = ValidationHistory(run, "cross_entropy", until=(1 << 63) - 1)
    yield ok("validations", f"{len(history.validations)} noted")


def _leftovers(run: RunDirectory) -> Iterator[Finding]:
    found = sorted({path for pattern in _LEFTOVERS for path in run.root.glob(pattern)})
    if not found or _is_locked(run):
        yield ok("leftovers", "none of killed processes")
        return
    names = ", ".join(path.relative_to(run.root).as_posix() for path in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    yield warning(
        "leftovers",
        f"a killed process has left {names}{more}",
        "the next command of its kind clears them away; or delete them",
    )


def _room(run: RunDirectory) -> Iterator[Finding]:
    if not os.access(run.root, os.W_OK):
        yield problem("room", f"{run.root} can't be written", "change its rights, or copy RUN")
        return
    sizes = [_size_of(run.checkpoints / str(n)) for n in store.list_checkpoints(run)]
    needed = _CHECKPOINTS_AHEAD * max(sizes, default=0)
    free = shutil.disk_usage(run.root).free
    what = f"{free / 2**20:,.0f} MiB free, two more checkpoints take {needed / 2**20:,.0f}"
    if free < needed:
        yield problem("room", what, "free some, or lower --keep-checkpoints")
    else:
        yield ok("room", what)


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
