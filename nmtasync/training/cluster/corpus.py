"""The corpus on every node: RUN itself where it is seen, or else a copy that Ray brings.

A copy is made once on each host, and kept for later runs in ~/.cache/nmtasync/corpora.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, directory_written_atomically, sha256
from nmtasync.training.cluster.engine import load_ray

_PART_BYTES = 64 << 20
"""So much of a file travels at a time."""


@dataclass(frozen=True)
class RunSource:
    """Where RUN is, and how to know it again.

    Attributes:
        root: Its path on the main process's node.
        manifest: The hash of its manifest, which holds those of all that was preprocessed.
        node: The id of that node.
        seen_as: Its path on other nodes, if they see it.
        cache: Where copies are kept; None for the user's own folder.
    """

    root: Path
    manifest: str
    node: str
    seen_as: Path
    cache: Path | None = None

    @classmethod
    def of(cls, run: RunDirectory, node: str) -> RunSource:
        """Describe the RUN of this process."""
        root = run.root.resolve()
        return cls(root, sha256(run.manifest), node, seen_as=root)


def run_seen_here(source: RunSource) -> RunDirectory:
    """Return RUN as it is seen on a worker's node, or a copy of what is trained on.

    Raises:
        UserError: It can't be brought here, or is damaged.
    """
    seen = RunDirectory(source.seen_as)
    return seen if _is_of(seen, source) else _copy_of(source)


def _is_of(run: RunDirectory, source: RunSource) -> bool:
    try:
        return sha256(run.manifest) == source.manifest
    except OSError:
        return False


def _copy_of(source: RunSource) -> RunDirectory:
    """Return this host's copy, which is made now unless there is one."""
    folder = source.cache or _user_cache() / "nmtasync" / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    copy = RunDirectory(folder / source.manifest[:32])
    with (folder / f"{source.manifest[:32]}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of this host wait for the first
        if not _is_of(copy, source):
            with directory_written_atomically(copy.root) as aside:
                _bring(source, RunDirectory(aside))
    return copy


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _bring(source: RunSource, copy: RunDirectory) -> None:
    _bring_file(source, copy.manifest.name, copy, source.manifest)
    for name, digest in copy.read_manifest()["outputs"].items():
        if name.startswith(("data/train/", "vocab/")):
            _bring_file(source, name, copy, digest)


def _bring_file(source: RunSource, name: str, copy: RunDirectory, digest: str) -> None:
    path, hashed = copy.root / name, hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for part in _parts(source, name):
            file.write(part)
            hashed.update(part)
    if hashed.hexdigest() != digest:
        raise UserError(
            "is not what RUN/manifest.json says",
            where=source.root / name,
            remedy="preprocess again into a new directory",
        )


def _parts(source: RunSource, name: str) -> Iterator[memoryview]:
    """Have a file read on the main process's node, the next part while one is written here."""
    ray = load_ray()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        source.node, soft=False
    )
    reader = ray.remote(_read_part).options(num_cpus=0, scheduling_strategy=strategy)
    start = 0
    coming = reader.remote(source.root / name, start)
    while len(part := ray.get(coming)):
        start += len(part)
        coming = reader.remote(source.root / name, start)
        yield memoryview(part)


def _read_part(path: Path, start: int) -> np.ndarray[Any, Any]:
    with path.open("rb") as file:
        file.seek(start)
        return np.frombuffer(file.read(_PART_BYTES), np.uint8)
