"""Surroundings that are unfriendly but allowed: the command works, or names what is in its way."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.processes import installed
from tests.support.toy import TOY_FLAGS

pytestmark = pytest.mark.processes

TRAIN = (*TOY_FLAGS, "--max-updates=6", "--validate-every=3")
TWO = ("--devices=cpu,cpu",)


def trained(
    run: RunDirectory,
    *options: str,
    cwd: Path | None = None,
    prefix: tuple[str, ...] = (),
    **changes: str | None,
) -> tuple[str, str]:
    process = installed(
        *("train", run.root, *TRAIN, *options),
        cwd=cwd or run.root.parent,
        changes=changes,
        prefix=prefix,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = (text.decode("utf-8", "replace") for text in process.communicate(timeout=120))
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert (run.checkpoints / "latest").read_text() == "6\n"
    return output, errors


@pytest.mark.parametrize("name", ["random", "signal", "socket", "torch", "nmtasync", "collections"])
def test_the_users_folder_is_not_where_we_import_from(toy_run: RunDirectory, tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    _, errors = trained(toy_run, *TWO, cwd=folder)
    assert "failed" not in errors and "not ours" not in errors
    assert not (folder / "__pycache__").exists()


def test_a_long_place_for_temporary_files(toy_run: RunDirectory, tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    trained(toy_run, *TWO, TMPDIR=str(folder))
    assert not list(folder.iterdir())


def test_a_user_without_name_and_home(toy_run: RunDirectory):
    become = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
    if subprocess.run([*become, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody become another user")
    trained(
        toy_run,
        *TWO,
        prefix=become,
        HOME=None,
        USER=None,
        LOGNAME=None,
        TORCHINDUCTOR_CACHE_DIR=None,
    )


@pytest.mark.parametrize("changes", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_no_cursor_is_moved_in_a_log_file(toy_run: RunDirectory, changes):
    _, errors = trained(toy_run, **changes)
    assert "\x1b" not in errors


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_unicode(toy_run: RunDirectory, encoding):
    output, _ = trained(toy_run, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert "ended:" in output


def test_when_nobody_reads_the_messages_training_goes_on(toy_run: RunDirectory):
    read, write = os.pipe()
    os.close(read)
    process = installed(
        *("train", toy_run.root, *TRAIN, "--json"),
        cwd=toy_run.root,
        stdout=subprocess.PIPE,
        stderr=write,
    )
    os.close(write)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(output)["updates"] == 6


def test_when_the_terminal_is_gone_training_goes_on(toy_run: RunDirectory):
    """Its other side is closed: what is written to it fails with EIO."""
    ours, theirs = pty.openpty()
    process = installed(
        *("train", toy_run.root, *TRAIN, *TWO, "--json"),
        cwd=toy_run.root,
        stdout=subprocess.PIPE,
        stderr=theirs,
        changes={"TERM": "xterm"},
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(output)["updates"] == 6
    assert "valid" in (toy_run.logs / "metrics.jsonl").read_text()


def test_standard_error_is_closed(toy_run: RunDirectory):
    process = installed(
        *("train", toy_run.root, *TRAIN, "--json"),
        cwd=toy_run.root,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.close(2),
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(output)["updates"] == 6
