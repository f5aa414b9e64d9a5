"""`nmtasync train` through the real command line: what goes in, what comes out, bad input."""

from __future__ import annotations

import json
import os
import tomllib

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line
from tests.support.toy import TOY_FLAGS


def test_a_run_leaves_config_checkpoints_and_figures(
    toy_run: RunDirectory, nmtasync_process: CommandLine
):
    result = nmtasync_process(
        "train", toy_run.root, *TOY_FLAGS, "--max-epochs=1", "--validate-every=5", "--json"
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["epochs"] == 1 and summary["best"]["updates"] > 0
    lines = [json.loads(line) for line in (toy_run.logs / "metrics.jsonl").open()]
    for line in lines:
        assert {"event", "time_seconds", "batches", "updates", "epoch"} <= line.keys()
    by_event = {line["event"]: line for line in lines}
    assert {"train", "valid", "checkpoint", "end"} <= by_event.keys()
    assert {
        "loss",
        "source_words_per_second",
        "target_words_per_second",
        "learning_rate",
        "staleness_mean",
        "staleness_max",
    } <= by_event["train"].keys()
    assert {"cross_entropy", "bleu"} <= by_event["valid"].keys()
    assert [path for path in toy_run.logs.iterdir() if "tfevents" in path.name]
    config = tomllib.loads(toy_run.config.read_text("utf-8"))
    assert config["model"]["dimension"] == 16


def test_the_next_call_remembers_the_options(toy_run: RunDirectory, nmtasync: CommandLine):
    assert nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-updates=2").returncode == 0
    result = nmtasync("train", toy_run.root, "--max-updates=3", "--json")
    assert result.returncode == 0, result.stderr
    assert "resuming at update 2" in result.stderr
    assert json.loads(result.stdout)["updates"] == 3


@pytest.mark.parametrize(("language", "words"), [("xx", "In 'xx'"), ("zho_Hans", None)])
def test_references_without_spaces_are_warned_of(
    language: str, words: str | None, toy_run: RunDirectory, nmtasync: CommandLine
):
    path = toy_run.data / "valid" / "target.txt"
    path.write_text("我喜欢在公园里散步，因为天气很好。\n" * 20, "utf-8")
    options = ["--set=training.validate_bleu=true", "--max-updates=1"]
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, *options, "--target-language", language)
    assert result.returncode == 0, result.stderr
    warning = "warning: the target side has hardly any spaces."
    assert (warning in result.stderr) == (words is not None)
    assert words is None or f"{warning} {words}" in result.stderr


def test_dump_config_prints_what_would_hold_and_does_nothing(tmp_path, nmtasync: CommandLine):
    run = tmp_path / "none"
    result = nmtasync("train", run, "--set", "model.type=rnn", "--seed", "7", "--dump-config")
    assert result.returncode == 0, result.stderr
    config = tomllib.loads(result.stdout)
    assert config["model"]["type"] == "rnn" and config["training"]["seed"] == 7
    assert not run.exists()
    path = tmp_path / "dumped.toml"
    path.write_text(result.stdout, "utf-8")
    again = nmtasync("train", run, "--config", path, "--dump-config")
    assert again.stdout == result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "tpu"], ["'tpu' is no device", "cpu or cuda:N"]),
        (["--devices", "cuda:7"], ["there is no cuda:7", "GPU"]),
        (["--devices", "cpu,"], ["'' is no device"]),
        (["--set", "training.sed=1"], ["unknown key training.sed", "did you mean training.seed"]),
        (["--set", "training.seed"], ["must be section.key=value"]),
        (["--seed", "one"], ["training.seed must be a whole number, not 'one'"]),
        (["--optimizer-delay", "0"], ["optimizer_delay must be between 1 and"]),
        (["--set", "model.heads=3"], ["heads", "dimension"]),
        (
            ["--set", "asynchronous.num_shards=1000000"],
            ["num_shards must be between 1 and"],
        ),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(
    toy_run: RunDirectory, nmtasync: CommandLine, arguments, words
):
    before = toy_run.config.read_bytes()
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, *arguments)
    assert result.returncode == 2, result.stderr
    line = one_line(result.stderr)
    assert all(word in line for word in words), line
    assert toy_run.config.read_bytes() == before, "a refused call changes nothing"


def test_a_config_with_a_wrong_type(toy_run: RunDirectory, nmtasync: CommandLine, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("[training]\nseed = 'one'\n", "utf-8")
    result = nmtasync("train", toy_run.root, "--config", path)
    assert result.returncode == 2
    line = one_line(result.stderr)
    assert str(path) in line and "training.seed must be a whole number" in line


def test_a_run_without_preprocessing(tmp_path, nmtasync: CommandLine):
    result = nmtasync("train", tmp_path / "run", *TOY_FLAGS)
    assert result.returncode == 2
    line = one_line(result.stderr)
    assert "has not been preprocessed" in line and "nmtasync preprocess" in line
    assert not (tmp_path / "run").exists(), "and it is not made"


def test_a_manifest_of_another_format(toy_run: RunDirectory, nmtasync: CommandLine):
    manifest = json.loads(toy_run.manifest.read_text("utf-8"))
    toy_run.manifest.write_text(json.dumps({**manifest, "format": 99}), "utf-8")
    result = nmtasync("train", toy_run.root, *TOY_FLAGS)
    assert result.returncode == 2
    assert "another format" in one_line(result.stderr)


def test_a_damaged_checkpoint(toy_run: RunDirectory, nmtasync: CommandLine):
    assert nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-updates=2").returncode == 0
    vectors = toy_run.checkpoints / "2" / "training.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:100])
    result = nmtasync("train", toy_run.root, "--max-updates=3")
    assert result.returncode == 2
    assert str(vectors) in one_line(result.stderr)


def test_a_full_disk_is_said_and_loses_nothing(
    toy_run: RunDirectory, nmtasync_process: CommandLine
):
    """A file-size limit stands in for a full disk: both make `write` fail half-way."""
    import resource

    assert nmtasync_process("train", toy_run.root, *TOY_FLAGS, "--max-updates=2").returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        result = nmtasync_process("train", toy_run.root, "--max-updates=4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.returncode in (1, 2), result.stderr
    assert "Traceback" not in result.stderr
    assert (toy_run.checkpoints / "latest").read_text() == "2\n"
    assert nmtasync_process("train", toy_run.root, "--max-updates=4").returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(toy_run: RunDirectory, nmtasync: CommandLine):
    toy_run.root.chmod(0o500)
    try:
        result = nmtasync("train", toy_run.root, *TOY_FLAGS)
    finally:
        toy_run.root.chmod(0o700)
    assert result.returncode == 2
    assert "can't be written" in one_line(result.stderr)


def test_an_unknown_command_gets_a_suggestion(nmtasync: CommandLine):
    result = nmtasync("trian", "RUN")
    assert result.returncode == 2
    assert "did you mean train?" in result.stderr
