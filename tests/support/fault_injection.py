"""Imported in each process of a run: at one moment, drawn beforehand, one process gets a signal.

The environment says which: FAULT is "PROCESS MOMENT NUMBER SIGNAL FILE", for example
"worker 1|after compute|3|SIGKILL|/tmp/fired": the third time that worker 1 comes to that moment.
The file is made when it happens, so it happens once, whoever takes the process's place.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

MOMENTS: dict[str, dict[str, str]] = {
    "worker": {
        "compute": "nmtasync.worker.worker:Worker.compute",
        "batch": "nmtasync.worker.worker:Worker.add",
        "push": "nmtasync.worker.worker:Worker.end",
        "complete": "nmtasync.server.transport:Slot.complete",
    },
    "rank": {
        "round": "nmtasync.training.synchronous.rank:Rank.play",
        "update": "nmtasync.training.synchronous.owned_shard:OwnedShard.update",
    },
    "validator": {
        "save": "nmtasync.checkpoints.store:save",
        "write": "nmtasync.checkpoints.store:_save_tensors",
        "rename": "pathlib:Path.rename",
        "replace": "pathlib:Path.replace",
        "validate": "nmtasync.training.validation.validator:Validator.validate",
        "loss": "nmtasync.training.validation.validator:Validator.cross_entropy",
    },
    "main": {
        "push": "nmtasync.training.exchanges:LoggedExchanges.push",
        "apply": "nmtasync.server.shard:Shard.apply",
        "fetch": "nmtasync.training.exchanges:LoggedExchanges.fetch",
        "snapshot": "nmtasync.server.server:Server.copy_vectors",
        "replace": "pathlib:Path.replace",
        "best": "nmtasync.checkpoints.store:point",
        "history": "nmtasync.checkpoints.history:ValidationHistory.add",
        "prune": "nmtasync.checkpoints.store:prune",
    },
}
"""Functions that are moments, of each kind of process."""


def arm() -> None:
    """Wrap the function whose call is the moment."""
    who, moment, number, name, fired = os.environ["FAULT"].split("|")
    phase, what = moment.split(" ")
    module, _, path = MOMENTS[kind_of(who)][what].partition(":")
    owner: Any = importlib.import_module(module)
    *parts, last = path.split(".")
    for part in parts:
        owner = getattr(owner, part)
    original, seen = getattr(owner, last), 0

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        ours = this_process() == who
        seen += ours
        met = ours and seen == int(number)
        if met and phase == "before":
            fire(name, fired)
        result = original(*arguments, **options)
        if met and phase == "after":
            fire(name, fired)
        return result

    setattr(owner, last, wrapped)


def kind_of(process: str) -> str:
    return process.split(" ", maxsplit=1)[0]


def this_process() -> str:
    name = multiprocessing.current_process().name
    return "main" if name == "MainProcess" else name


def fire(name: str, fired: str) -> None:
    """Send this process a signal, once in all."""
    try:
        with Path(fired).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.Signals[name])


if "FAULT" in os.environ:
    arm()
