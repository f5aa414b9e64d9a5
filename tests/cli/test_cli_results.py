"""Results are not lost at the last step: places are tried before, and scores shown in any case."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from nmtasync.evaluation.translate import Translator
from nmtasync.profiling import profile as profile_module
from nmtasync.run_directory import RunDirectory, refuse_unwritable
from tests.support.command_line import CommandLine, one_line
from tests.support.repository import REPOSITORY
from tests.support.runs import train_toy
from tests.support.toy import TOY_FLAGS


@pytest.fixture
def trained(toy_run: RunDirectory) -> RunDirectory:
    train_toy(toy_run, training__max_updates=1)
    return toy_run


def named_sets(corpus: Path, *names: str) -> list[object]:
    sides = corpus / "valid.src", corpus / "valid.tgt"
    return [argument for name in names for argument in ("--test", name, *sides)]


def full_disk(path: Path, content: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def a_file(place: Path) -> None:
    place.touch()


def a_dead_link(place: Path) -> None:
    place.symlink_to("/nowhere")


def a_directory_of_that_name(place: Path) -> None:
    (place / "toy.hyp").mkdir(parents=True)


@pytest.mark.parametrize(
    ("obstacle", "words"),
    [
        (a_file, "evaluation: is in the way"),
        (a_dead_link, "evaluation: is a link to /nowhere, where no directory is"),
        (a_directory_of_that_name, "toy.hyp: is in the way of a file"),
    ],
)
def test_evaluate_tries_its_place_before_it_translates(
    obstacle: Callable[[Path], None],
    words: str,
    trained: RunDirectory,
    toy_corpus: Path,
    nmtasync: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    obstacle(trained.evaluation)
    monkeypatch.setattr(Translator, "translate", None)
    result = nmtasync("evaluate", trained.root, *named_sets(toy_corpus, "toy"))
    assert (result.returncode, result.stdout) == (2, "")
    assert words in one_line(result.stderr)


@pytest.mark.parametrize("as_json", [False, True])
def test_scores_are_shown_where_the_disk_is_full_by_then(
    as_json: bool,
    trained: RunDirectory,
    toy_corpus: Path,
    nmtasync: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["evaluate", trained.root, *named_sets(toy_corpus, "toy", "other")]
    arguments += ["--json"] * as_json
    monkeypatch.setattr("nmtasync.evaluation.test_sets.write_atomically", full_disk)
    result = nmtasync(*arguments)
    assert result.returncode == 1
    assert "toy.hyp: the disk or its quota is full" in one_line(result.stderr)
    if as_json:
        assert [entry["name"] for entry in json.loads(result.stdout)] == ["toy", "other"]
    else:
        assert result.stdout.count("BLEU ") >= 2


@pytest.mark.processes
def test_profile_tries_its_place_before_it_measures_and_shows_figures_in_any_case(
    toy_run: RunDirectory, nmtasync: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["profile", toy_run.root, "--batches=1", "--device=cpu", *TOY_FLAGS, "--json"]
    with monkeypatch.context() as patched:
        patched.setattr(profile_module, "write_json", full_disk)
        result = nmtasync(*arguments)
    assert result.returncode == 1
    assert "profile.json: the disk or its quota is full" in one_line(result.stderr)
    assert json.loads(result.stdout)["num_batches"] == 1
    toy_run.logs.rmdir()
    toy_run.logs.touch()
    monkeypatch.setattr(profile_module, "_Measuring", None)
    result = nmtasync(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "logs: is in the way" in one_line(result.stderr)


@pytest.mark.parametrize("name", ["checkpoints", "logs"])
@pytest.mark.parametrize("obstacle", [a_file, a_dead_link])
def test_train_tries_its_places_before_it_trains(
    obstacle: Callable[[Path], None], name: str, toy_run: RunDirectory, nmtasync: CommandLine
) -> None:
    obstacle(toy_run.root / name)
    before = toy_run.config.read_bytes()
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-updates=1")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{name}: is " in one_line(result.stderr)
    assert toy_run.config.read_bytes() == before


@pytest.mark.processes
def test_translate_refuses_an_output_that_is_for_reading(trained: RunDirectory) -> None:
    command = f"{sys.executable} -m cli translate {trained.root} 1</dev/null"
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        input="eins\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "standard output: is open for reading only" in one_line(result.stderr)


def test_trying_a_place_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "a" / "b")
    refuse_unwritable(tmp_path)
    assert not list(tmp_path.iterdir())
