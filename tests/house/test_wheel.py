"""What users install: a wheel of this checkout, in an environment and a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cli.main import COMMANDS
from tests.support.repository import REPOSITORY
from tests.support.toy import TOY_FLAGS

pytestmark = pytest.mark.system

NEEDED = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "nmtasync", "cli")
"""What a wheel is built from; a copy, since building writes beside it."""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def output(*command: object, cwd: Path) -> str:
    """Run a command where the checkout can't be found, and return what it printed."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment: the wheel, and the dependencies of this one."""
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    tree.mkdir()
    for name in NEEDED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    output(*PIP, "wheel", "--no-deps", "--wheel-dir", place / "dist", tree, cwd=place)
    (wheel,) = (place / "dist").glob("*.whl")
    environment = place / "environment"
    output(sys.executable, "-m", "venv", "--without-pip", environment, cwd=place)
    python = environment / "bin" / "python"
    output(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=place)
    (own,) = environment.glob("lib/python*/site-packages")
    # that directory becomes importable; its own .pth files, as of an editable install, are not read
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return environment / "bin"


def test_what_is_imported_is_what_was_installed(programs, tmp_path):
    code = "import nmtasync, nmtasync_cli; print(nmtasync.__file__, nmtasync_cli.__file__)"
    for file in output(programs / "python", "-c", code, cwd=tmp_path).split():
        assert Path(file).is_relative_to(programs.parent)


def test_every_command_explains_itself(programs, tmp_path):
    assert "Usage: nmtasync" in output(programs / "nmtasync", "--help", cwd=tmp_path)
    for name in COMMANDS:
        assert f"Usage: nmtasync {name}" in output(
            programs / "nmtasync", name, "--help", cwd=tmp_path
        )


def test_it_preprocesses_and_trains(programs, tmp_path, toy_corpus):
    train, valid = (
        [toy_corpus / f"{part}.{side}" for side in ("src", "tgt")] for part in ("train", "valid")
    )
    pairs = ["--train", *train, "--valid", *valid]
    output(programs / "nmtasync", "preprocess", "run", *pairs, "--vocab-size=300", cwd=tmp_path)
    output(programs / "nmtasync", "train", "run", *TOY_FLAGS, "--max-updates=2", cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "2\n"
