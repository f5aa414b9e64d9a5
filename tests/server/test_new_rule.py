"""CONTRIBUTING's recipe for a rule, followed to the letter in a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.repository import REPOSITORY
from tests.support.runs import final_state

FLAGS = [
    *("--set=model.dimension=16", "--set=model.encoder_layers=1", "--set=model.decoder_layers=1"),
    *("--driver=simulated", "--set=simulation.speeds=1,1", "--devices=cpu", "--max-updates=4"),
    *("--set=training.validate_bleu=false", "--set=training.validate_metric=cross_entropy"),
]


def recipe() -> tuple[str, str]:
    """The file and the line that CONTRIBUTING.md gives as an example."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    file, line = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return file, line


def train(package: Path, run: RunDirectory, rule: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "train", str(run.root), *FLAGS, f"--rule={rule}"],
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the code."""
    for folder in ("nmtasync", "cli"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "package" / folder)
    return tmp_path / "package"


@pytest.mark.processes
def test_a_rule_is_one_file_and_one_line(package, toy_run):
    refused = train(package, toy_run, "half-later")
    assert refused.returncode != 0
    assert "'half-later' is no rule; there are immediate, " in refused.stderr
    assert not toy_run.checkpoints.exists()

    file, line = recipe()
    (package / "nmtasync/server/rules/half_later.py").write_text(file, "utf-8")
    entries = package / "nmtasync/config/rules.py"
    before, end, after = entries.read_text("utf-8").rpartition("\n}\n")
    entries.write_text(before + "\n" + line.rstrip("\n") + end + after, "utf-8")

    done = train(package, toy_run, "half-later+staleness-aware")
    assert done.returncode == 0, done.stderr
    vectors, state = final_state(toy_run)
    assert state["updates"] == 4
    assert vectors["kept_half"].any(), "the last push was late"
    command = [sys.executable, "-m", "nmtasync.config.reference"]
    page = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True)
    assert "half-later applies half of late ones with the next" in page.stdout
