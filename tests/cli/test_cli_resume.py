"""Going on with another configuration: shown, and refused where something would be lost."""

from __future__ import annotations

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line
from tests.support.toy import TOY_FLAGS


@pytest.fixture
def trained(toy_run: RunDirectory, nmtasync: CommandLine) -> RunDirectory:
    result = nmtasync(
        "train", toy_run.root, *TOY_FLAGS, "--max-updates=4", "--set=schedule.decay=linear"
    )
    assert result.returncode == 0, result.stderr
    return toy_run


def test_nothing_is_said_of_what_did_not_change(trained, nmtasync: CommandLine):
    result = nmtasync("train", trained.root, "--no-resume")
    assert "changed" not in result.stderr
    result = nmtasync("train", trained.root)
    assert result.returncode == 0 and "changed" not in result.stderr


def test_harmless_changes_are_shown_and_go_through(trained, nmtasync: CommandLine):
    result = nmtasync("train", trained.root, "--max-updates=6", "--learning-rate=5e-4")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stderr.splitlines() if line.startswith("changed: "))
    assert "schedule.learning_rate = 0.0005 (was " in line
    assert "training.max_updates = 6 (was 4)" in line


def test_a_decay_that_had_ended_and_begins_again_is_told(trained, nmtasync: CommandLine):
    result = nmtasync("train", trained.root, "--max-updates=8")
    assert "the linear decay had come 100% of its way and is at 50%" in result.stderr
    result = nmtasync("train", trained.root, "--max-updates=8")
    assert "linear decay" not in result.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("optimizer.name=sgd", "moments begin anew"),
        ("asynchronous.rule=buffer", "what the rule has kept is given up"),
    ],
)
def test_harmful_changes_need_to_be_accepted(trained, nmtasync: CommandLine, option, words):
    before = trained.config.read_bytes(), (trained.checkpoints / "latest").read_bytes()
    arguments = ("train", trained.root, "--max-updates=6", f"--set={option}")
    result = nmtasync(*arguments)
    assert result.returncode == 2
    line = one_line(result.stderr)
    assert words in line and "--accept-changes" in line, line
    assert before == (trained.config.read_bytes(), (trained.checkpoints / "latest").read_bytes())
    result = nmtasync(*arguments, "--accept-changes")
    assert result.returncode == 0, result.stderr
