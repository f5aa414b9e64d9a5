"""Checksums of checkpoints: a file that has changed since it was written is noticed, never used.

state.json has the SHA-256 of each file beside it, and of itself without this entry. Checkpoints of
format 1, which earlier versions wrote, have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtasync.errors import UserError
from nmtasync.run_directory import sha256
from nmtasync.untrusted import leads_outside, parse_json, read_document

MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
CHECKPOINT_FORMAT, UNSEALED_FORMAT = 2, 1
SEAL = "sha256"


def sealed(content: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Add the checksums to what state.json shall hold.

    Args:
        content: All of it.
        directory: The checkpoint, with its other files.
    """
    hashes = {path.name: sha256(path) for path in sorted(directory.iterdir())}
    return {**content, SEAL: {**hashes, STATE: _digest(content)}}


def read_sealed(directory: Path) -> dict[str, Any]:
    """Read a checkpoint's state.json, and see that it is as it was written.

    Returns:
        What it holds, the checksums too.

    Raises:
        UserError: It can't be read, has changed, or is of a format that this version can't read.
    """
    path = directory / STATE
    try:
        content = parse_json(read_document(_own_file(path)))
        json.dumps(content)  # as its checksum needs it; it may be nested too deeply
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"is no checkpoint: {error}", where=directory) from None
    known = (UNSEALED_FORMAT, CHECKPOINT_FORMAT)
    if not isinstance(content, dict) or content.get("format") not in known:
        raise UserError(
            f"was written in another format than {CHECKPOINT_FORMAT}, which this version reads",
            where=directory,
        )
    if content["format"] == CHECKPOINT_FORMAT:
        seal = content.get(SEAL)
        rest = {name: value for name, value in content.items() if name != SEAL}
        if not isinstance(seal, dict) or seal.get(STATE) != _digest(rest):
            raise _changed(path)
    return content


def check_file(directory: Path, name: str) -> None:
    """See that a file of a checkpoint is as it was written.

    Raises:
        UserError: It is missing or has changed, or state.json has.
    """
    _check_file(read_sealed(directory), directory / name)


def _check_file(content: Mapping[str, Any], path: Path) -> None:
    """As `check_file`; `content` is what the state.json beside it holds."""
    try:
        digest = sha256(_own_file(path))
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", where=path) from None
    if content["format"] == CHECKPOINT_FORMAT and content[SEAL].get(path.name) != digest:
        raise _changed(path)


def _changed(path: Path) -> UserError:
    return UserError("is damaged: its checksum is another than when it was written", where=path)


def _own_file(path: Path) -> Path:
    """Refuse what is no file of RUN/checkpoints, and may be anybody's, or have no end."""
    if path.exists() and (leads_outside(path, path.parent.parent) or not path.is_file()):
        raise UserError(
            "is no file of RUN/checkpoints, but leads elsewhere",
            where=path,
            remedy="copy what it leads to, if you trust it, in its place",
        )
    return path


def damage(directory: Path, *names: str) -> UserError | None:
    """What is wrong with the state and these files of a checkpoint, if anything is."""
    try:
        content = read_sealed(directory)
        for name in names:
            _check_file(content, directory / name)
    except UserError as error:
        return error
    return None


def _digest(content: Mapping[str, Any]) -> str:
    """Hash an object as JSON has it, whatever types its keys had."""
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
