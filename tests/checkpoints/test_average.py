"""`nmtasync average`: which checkpoints are taken, their mean to the bit, and who reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file

from nmtasync.checkpoints import store
from nmtasync.checkpoints.checksums import read_sealed
from nmtasync.checkpoints.load import load_model
from nmtasync.doctor.findings import Status
from nmtasync.doctor.run import examine_run
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line
from tests.support.runs import final_state, train_toy
from tests.support.toy import TOY_FLAGS


@pytest.fixture(scope="module")
def _trained_template(
    tmp_path_factory: pytest.TempPathFactory, _toy_run_template: Path
) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("averaged") / "run")
    shutil.copytree(_toy_run_template, run.root)
    options: dict[str, Any] = {"training__max_updates": 8, "training__validate_every": 2}
    train_toy(run, training__keep_checkpoints=9, **options)
    return run


@pytest.fixture
def run(tmp_path: Path, _trained_template: RunDirectory) -> RunDirectory:
    """A run with the checkpoints 2, 4, 6 and 8, of which 6 and 2 have validated best."""
    run = RunDirectory(shutil.copytree(_trained_template.root, tmp_path / "trained"))
    assert store.list_checkpoints(run) == [2, 4, 6, 8]
    noted = [
        {"updates": n, "time_seconds": float(n), "cross_entropy": loss, "bleu": None}
        for n, loss in ((2, 3.0), (3, 0.5), (4, 4.0), (6, 2.0), (8, 3.0))
    ]
    (run.checkpoints / "validations.json").write_text(json.dumps(noted), "utf-8")
    return run


def parameters(run: RunDirectory, name: object) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / str(name) / "model.safetensors")


def test_the_average_of_one_is_that_one_to_the_bit(
    run: RunDirectory, nmtasync: CommandLine
) -> None:
    assert nmtasync("average", run.root, "--checkpoints", "4").returncode == 0
    one, average = (run.checkpoints / name / "model.safetensors" for name in ("4", "average"))
    assert one.read_bytes() == average.read_bytes()


@pytest.mark.parametrize(
    ("options", "name", "numbers"),
    [
        (["--last", "3"], "last-3", [4, 6, 8]),
        (["--best", "2"], "best-2", [2, 6]),
        (["--best", "3", "--name", "mine"], "mine", [2, 6, 8]),
        (["--checkpoints", "8,2"], "average", [2, 8]),
    ],
)
def test_the_mean_is_summed_in_float64(
    options: list[str], name: str, numbers: list[int], run: RunDirectory, nmtasync: CommandLine
) -> None:
    result = nmtasync("average", run.root, *options, "--json")
    assert result.returncode == 0, result.stderr
    written = json.loads(result.stdout)
    path = run.checkpoints / name
    assert written == {"checkpoint": str(path), "averaged_checkpoints": numbers}
    each = [parameters(run, number) for number in numbers]
    for key, tensor in parameters(run, name).items():
        mean = torch.stack([part[key].double() for part in each]).sum(0) / len(each)
        assert tensor.dtype == torch.float32 and torch.equal(tensor, mean.float()), key
    state = read_sealed(path)  # its checksums are those of its files
    assert (state["averaged"], state["updates"]) == (numbers, numbers[-1])
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "state.json"]
    model, _, checkpoints = load_model(run, name)
    assert checkpoints == numbers
    assert torch.equal(dict(model.named_parameters())[key], tensor)


def test_what_is_averaged_is_said(run: RunDirectory, nmtasync: CommandLine) -> None:
    result = nmtasync("average", run.root, "--last", 2)
    assert "the moving averages of the parameters of 6, 8" in result.stdout
    place = ("--name", "place", "--best", "1")
    assert "of 6\n" in nmtasync("average", run.root, *place).stdout
    assert "of 8\n" in nmtasync("average", run.root, *place[:2], "--last", "1").stdout
    assert parameters(run, "place").keys() == parameters(run, 8).keys()
    assert read_sealed(run.checkpoints / "place")["averaged"] == [8], "the later one replaces it"


def test_everything_reads_it(
    run: RunDirectory, nmtasync: CommandLine, toy_corpus: Path, toy_run: RunDirectory
) -> None:
    assert nmtasync("average", run.root, "--last", 3).returncode == 0
    lines = "eins zwei\ndrei\n"
    ours = nmtasync("translate", run.root, "--checkpoint", "last-3", stdin=lines).stdout
    theirs = nmtasync("translate", run.root, "--checkpoint", 8, "--average", 3, stdin=lines).stdout
    assert ours == theirs
    sides = toy_corpus / "valid.src", toy_corpus / "valid.tgt"
    result = nmtasync(
        "evaluate", run.root, "--checkpoint", "last-3", "--test", "t", *sides, "--json"
    )
    (written,) = json.loads(result.stdout)
    assert (written["checkpoint"], written["averaged_checkpoints"]) == (8, [4, 6, 8])

    origin = run.checkpoints / "last-3"
    start = ["--init-from", origin, "--learning-rate=0", "--max-updates=1"]
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, *start)
    assert result.returncode == 0, result.stderr
    for name, tensor in parameters(toy_run, 1).items():
        assert torch.equal(tensor, parameters(run, "last-3")[name]), name
    assert final_state(toy_run)[1]["initialised_from"]["checkpoint"] == str(origin)


def test_training_neither_counts_nor_touches_it(run: RunDirectory, nmtasync: CommandLine) -> None:
    nmtasync("average", run.root, "--last", 2)
    before = parameters(run, "last-2")
    options = ["--max-updates=12", "--set=training.keep_checkpoints=2"]
    assert nmtasync("train", run.root, *options).returncode == 0
    assert store.pointed(run, "latest") == 12 and store.list_averages(run) == ["last-2"]
    for name, tensor in parameters(run, "last-2").items():
        assert torch.equal(tensor, before[name])
    assert "last-2 is whole" in [finding.what for finding in examine_run(run)]
    assert nmtasync("train", run.root, "--no-resume", "--max-updates=1").returncode == 0
    assert store.list_averages(run) == [], "it is of the training that was given up"


def test_a_damaged_one_is_noticed(run: RunDirectory, nmtasync: CommandLine) -> None:
    nmtasync("average", run.root, "--last", 2)
    path = run.checkpoints / "last-2" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    result = nmtasync("translate", run.root, "--checkpoint=last-2", stdin="eins\n")
    assert result.returncode == 2 and "is damaged: its checksum" in one_line(result.stderr)
    problems = [f.what for f in examine_run(run) if f.status is Status.PROBLEM]
    assert len(problems) == 1 and "last-2/model.safetensors" in problems[0]


def test_it_is_whole_or_not_at_all(
    run: RunDirectory, nmtasync: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    nmtasync("average", run.root, "--last=2", "--name=mean")
    before = parameters(run, "mean")

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    result = nmtasync("average", run.root, "--last=3", "--name=mean")
    assert result.returncode == 1 and "the disk or its quota is full" in one_line(result.stderr)
    assert read_sealed(run.checkpoints / "mean")["averaged"] == [6, 8]
    assert all(torch.equal(tensor, before[n]) for n, tensor in parameters(run, "mean").items())
    assert not list(run.checkpoints.glob(".*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --last, --best and --checkpoints"),
        (["--last", "2", "--best", "2"], "give one of --last, --best and --checkpoints"),
        (["--last", "5"], "holds 4 checkpoints, not 5; average fewer"),
        (["--best", "5"], "holds 4 validated checkpoints, not 5"),
        (["--checkpoints", "2,3"], "holds no checkpoint 3; there are 2, 4, 6, 8"),
        (["--checkpoints", "2,2"], "--checkpoints 2: is named twice"),
        (["--checkpoints", "best"], "is no list of numbers"),
        (["--last", "1", "--name", "best"], "neither best nor latest"),
        (["--last", "1", "--name", "../elsewhere"], "must be a letter, then letters"),
        (["--last", "1", "--name", "12"], "must be a letter, then letters"),
    ],
)
def test_mistakes_end_in_one_line(
    options: list[str], message: str, run: RunDirectory, nmtasync: CommandLine
) -> None:
    result = nmtasync("average", run.root, *options)
    assert result.returncode == 2 and message in one_line(result.stderr)
    assert store.list_averages(run) == []


def test_who_works_in_the_run_is_waited_for(run: RunDirectory, nmtasync: CommandLine) -> None:
    with run.lock():
        result = nmtasync("average", run.root, "--last", 2)
    assert result.returncode == 2 and "is in use by another nmtasync process" in result.stderr


def test_a_mean_is_no_checkpoint_to_average(run: RunDirectory, nmtasync: CommandLine) -> None:
    nmtasync("average", run.root, "--last", 2)
    options = ["--checkpoint=last-2", "--average=2"]
    result = nmtasync("translate", run.root, *options, stdin="eins\n")
    assert result.returncode == 2 and "is the mean of some already" in one_line(result.stderr)
