"""The paper's ablation: its arithmetic on made-up logs, its settings, resuming, a tiny run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nmtasync.config.load import read_toml
from nmtasync.config.schema import Config
from nmtasync.errors import UserError
from nmtasync.optim.schedules import words_scale
from nmtasync.run_directory import RunDirectory
from recipes.paper.measure import measure
from recipes.paper.report import as_json, as_markdown, collect
from recipes.paper.rows import BASELINE, ROWS, Machine, Row, find_rows, read_costs, row_config
from recipes.paper.run import HERE, Runner, Task
from tests.support.repository import REPOSITORY
from tests.support.runs import words_of_an_epoch

SIMULATED = Machine(4, "cpu", read_costs(HERE / "four_gpus.toml"), None)
REAL = Machine(4, "cuda:0,cuda:1,cuda:2,cuda:3", None, None)


def log(out: Path, row: Row, seed: int, *lines: dict) -> RunDirectory:
    """Write a log as a run would have."""
    run = RunDirectory(out / row.name / f"seed-{seed}")
    run.logs.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.logs / "metrics.jsonl").write_text(text, "utf-8")
    return run


def train(updates: int, seconds: float, words: float = 100.0, staleness: float = 3.0) -> dict:
    figures = {"target_words_per_update": words, "staleness_mean": staleness}
    return {"event": "train", "updates": updates, "time_seconds": seconds, **figures}


def valid(updates: int, seconds: float, bleu: float | None) -> dict:
    return {"event": "valid", "updates": updates, "time_seconds": seconds, "bleu": bleu}


def end(reason: str = "reached training.max_epochs = 6") -> dict:
    return {"event": "end", "reason": reason}


def test_figures_are_means_over_updates(tmp_path):
    run = log(
        tmp_path,
        BASELINE,
        1,
        train(10, 5.0, words=100.0, staleness=0.0),
        valid(10, 4.5, 1.5),
        train(40, 20.0, words=200.0, staleness=4.0),
        valid(40, 20.0, 0.5),
        end(),
    )
    measured = measure(run)
    assert measured is not None and measured.ended == "reached training.max_epochs = 6"
    assert measured.target_words_per_update == (10 * 100 + 30 * 200) / 40
    assert measured.target_words_per_second == 7000 / 20
    assert measured.staleness == 30 * 4 / 40
    assert measured.best_bleu == 1.5
    assert [point.target_words for point in measured.points] == [1750, 7000]


def test_what_a_killed_run_had_done_after_its_checkpoint_does_not_count(tmp_path):
    run = log(
        tmp_path,
        BASELINE,
        1,
        train(10, 5.0),
        valid(10, 5.0, 3.0),
        train(20, 10.0),
        valid(20, 10.0, 9.0),
        train(30, 15.0, words=900.0),  # killed; resumed from update 15
        train(25, 12.0),
        valid(20, 9.0, 4.0),
    )
    with (run.logs / "metrics.jsonl").open("a") as file:
        file.write('{"event": "tra')  # as a killed process may leave it
    measured = measure(run)
    assert measured is not None and measured.ended is None
    assert (measured.seconds, measured.target_words_per_update) == (12.0, 100.0)
    assert [point.bleu for point in measured.points] == [3.0, 4.0]


@pytest.mark.parametrize("reason", ["interrupted", "terminated"])
def test_a_stopped_run_has_not_ended_and_one_that_goes_on_neither(tmp_path, reason):
    stopped = log(tmp_path, BASELINE, 1, train(10, 5.0), end(reason))
    going_on = log(tmp_path, BASELINE, 2, train(10, 5.0), end(), train(20, 9.0))
    for run in (stopped, going_on):
        measured = measure(run)
        assert measured is not None and measured.ended is None
    assert measure(RunDirectory(tmp_path / "nothing")) is None


def test_time_to_the_target_is_read_off_the_line_between_validations(tmp_path):
    run = log(
        tmp_path,
        BASELINE,
        1,
        *(train(10 * n, 100.0 * n) for n in range(1, 5)),
        valid(10, 100.0, 8.0),
        valid(20, 200.0, 12.0),
        valid(30, 300.0, 10.0),
        valid(40, 400.0, 20.0),
    )
    measured = measure(run)
    assert measured is not None
    assert measured.seconds_to(4.0) == 50.0  # half the way from BLEU 0 at the start
    assert measured.seconds_to(8.0) == 100.0
    assert measured.seconds_to(11.0) == 175.0  # when it was reached first
    assert measured.seconds_to(15.0) == 350.0
    assert measured.seconds_to(20.5) is None


def test_rows_are_compared_with_the_baseline_of_their_seed(tmp_path):
    delay, momentum, local = find_rows("delay,momentum,local-optimizers")
    for seed, bleu, factor in ((1, 20.2, 1.0), (2, 10.2, 2.0)):
        halves = [valid(1, factor * 50.0, bleu / 2), valid(2, factor * 100.0, bleu)]
        log(tmp_path, BASELINE, seed, train(2, factor * 100.0), *halves, end())
        # reaches 20 or 10 in half the time of the line's end
        log(tmp_path, delay, seed, train(2, 60.0), valid(2, 50.0, bleu - 0.2), end())
        log(tmp_path, momentum, seed, train(2, 60.0), valid(2, 50.0, 15.0), end("terminated"))
        log(tmp_path, local, seed, train(2, 60.0), valid(2, 50.0, 1.0), end())
    rows = collect(tmp_path)
    report = as_json(rows, [])
    by_name = {row["name"]: row["seeds"] for row in report["rows"]}
    assert list(by_name) == ["baseline", "delay", "local-optimizers", "momentum"]
    assert by_name["baseline"][1]["target_bleu"] == 20.0
    # the baseline's own time: from half of its best at half of the time, straight to its best
    own = [
        factor * (50 + 50 * (bleu / 2 - 0.2) / (bleu / 2))
        for bleu, factor in ((20.2, 1.0), (10.2, 2.0))
    ]
    assert [by_name["baseline"][s]["seconds_to_target"] for s in (1, 2)] == pytest.approx(own)
    assert [by_name["delay"][s]["speed_up"] for s in (1, 2)] == pytest.approx(
        [own[0] / 50, own[1] / 50]
    )
    assert by_name["momentum"][1]["seconds_to_target"] is None
    assert by_name["momentum"][2]["seconds_to_target"] == pytest.approx(50 * 10 / 15)

    lines = [line for line in as_markdown(rows, []).splitlines() if line.startswith("| ")]
    table = {line.split(" | ")[0][2:]: line for line in lines}
    assert table["asynchronous baseline"].endswith("| 1.00 (1.00 to 1.00) |")
    assert f"{(own[0] + own[1]) / 100:.2f} ({own[0] / 50:.2f} to" in table["+ delay"]
    assert table["+ local optimizers"].endswith("| not reached | – |")
    assert table["+ momentum tuning (not ended)"].endswith("| not reached by 1 of 2 | – |")


def test_without_a_baseline_that_has_learnt_there_is_no_target(tmp_path):
    log(tmp_path, BASELINE, 1, train(2, 60.0), valid(2, 50.0, 0.1), end())
    log(tmp_path, ROWS[2], 1, train(2, 60.0), valid(2, 50.0, 0.0), end())
    log(tmp_path, ROWS[2], 2, train(2, 60.0), valid(2, 50.0, 3.0), end())
    text = as_markdown(collect(tmp_path), [])
    assert text.count("| – | – |") == 2 and "not reached" not in text


@pytest.mark.parametrize("model", ["transformer", "rnn"])
def test_every_row_can_be_trained_and_sees_as_many_words_between_validations(toy_run, model):
    base = read_toml(HERE / f"{model}.toml")
    names = set()
    for row in ROWS:
        for machine in (SIMULATED, REAL):
            config = row_config(toy_run, base, row, machine, 1, 6)
            workers = 4 if row.synchronous else 1
            per_update = config.data.batch_tokens * config.asynchronous.optimizer_delay * workers
            words = config.training.validate_every * per_update
            assert words == pytest.approx(540 * 450, rel=0.01), row.name
            leads = "looking-ahead" in row.name
            mean = config.schedule.reference_words  # an update of the baseline
            scale = words_scale(round(mean * per_update / 540), config.schedule)
            growth = {"larger-batch": 2**0.5, "delay": 2**0.5, "synchronous": 4}
            expected = math.prod(growth.get(name, 1) for name in row.overlays)
            expected *= 2 if row.name.startswith("baseline-looking-ahead") else 1
            rate = scale * config.schedule.learning_rate
            assert rate == pytest.approx(expected * base["schedule.learning_rate"], rel=0.01)
            assert row.synchronous or (config.asynchronous.momentum_lead > 0) == leads
            if "warmup" in row.overlays:
                assert config.schedule.warmup_updates * per_update == pytest.approx(words)
            else:
                assert config.schedule.warmup_updates == 0
        names.add(row.name)
    assert len(names) == len(ROWS) == 18


def test_a_row_has_all_its_overlays_on_its_own_clocks(toy_run):
    base = read_toml(HERE / "transformer.toml")
    (row,) = find_rows("momentum-warmup")
    config = row_config(toy_run, base, row, SIMULATED, 3, 6)
    # four times the words: batches twice as large, two of them to a push
    assert config.optimizer.beta_points == "1:0.9:0.999!,450:0.92:0.998"
    assert config.asynchronous.local_optimizer_batches == 150
    assert (config.training.seed, config.training.max_epochs) == (3, 6)
    with pytest.raises(UserError, match="no row 'dealy'"):
        find_rows("baseline,dealy")
    with pytest.raises(UserError, match=r"--devices: names 2, but --workers is 4"):
        row_config(toy_run, base, row, Machine(4, "cpu,cpu", None, None), 1, 6)


def a_task(run: RunDirectory, **training: int) -> Task:
    config = Config()
    return Task("a row", run, replace(config, training=replace(config.training, **training)))


def test_a_row_goes_on_unless_it_is_another_one(toy_run, tmp_path):
    run = log(tmp_path, BASELINE, 1, train(10, 5.0), end())
    task = a_task(run, max_epochs=6)
    assert not task.ended()
    task.prepare(toy_run)
    assert task.ended() and (run.data / "train").is_dir()
    assert not a_task(run, max_epochs=7).ended(), "a higher limit lets it go on"
    with pytest.raises(UserError, match=r"begun with training\.seed = 1, not 2"):
        a_task(run, max_epochs=6, seed=2).ended()
    manifest = json.loads(toy_run.manifest.read_text())
    toy_run.manifest.write_text(json.dumps({**manifest, "inputs": []}))
    with pytest.raises(UserError, match="begun on another corpus"):
        task.prepare(toy_run)


@pytest.mark.processes
def test_ctrl_c_stops_what_runs_and_begins_nothing_more(tmp_path):
    child = tmp_path / "child.py"  # presses Ctrl-C, and waits for the signal to be passed on
    child.write_text(
        "import os, pathlib, signal, sys\n"
        "pathlib.Path(sys.argv[2], 'begun').touch()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "while True: signal.pause()\n"
    )
    tasks = [a_task(RunDirectory(tmp_path / name)) for name in ("first", "second")]
    for task in tasks:
        task.run.root.mkdir()
    runner = Runner([sys.executable, str(child)], num_jobs=1)
    runner.run(tasks)
    assert runner.stopped == "interrupted" and not runner.failed
    assert [(task.run.root / "begun").exists() for task in tasks] == [True, False]


@pytest.mark.processes
def test_two_rows_from_the_corpus_to_the_table(toy_run, tmp_path):
    out, model, cost = tmp_path / "out", tmp_path / "model.toml", tmp_path / "cost.toml"
    model.write_text(
        "[data]\nbatch_tokens = 120\n"
        "[model]\ndimension = 16\nencoder_layers = 1\ndecoder_layers = 1\n"
        "[training]\nvalidate_every = 8\npatience = 'none'\n"
    )
    cost.write_text("[simulation]\nseconds_per_batch = 1.0\n")
    command = [sys.executable, "-m", "recipes.paper.run", toy_run.root, out, "--epochs=1"]
    command += [f"--model={model}", f"--cost={cost}", "--workers=2", "--jobs=2", "--devices=cpu"]
    command += ["--rows=baseline,synchronous", f"--nmtasync={sys.executable} -m cli"]

    def run() -> str:
        result = subprocess.run(
            list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert "2 runs, 0 of them ended before" in run()
    report = json.loads((out / "report.json").read_text("utf-8"))
    baseline, synchronous = (row["seeds"]["1"] for row in report["rows"])
    words = words_of_an_epoch(toy_run)
    num_batches = round(words / baseline["target_words_per_update"])
    # two workers, a second a batch, nothing else takes time
    for figures in (baseline, synchronous):
        assert figures["ended"] == "reached training.max_epochs = 1"
        assert figures["seconds"] == math.ceil(num_batches / 2)
        assert figures["target_words_per_second"] == pytest.approx(words / figures["seconds"])
    assert baseline["staleness"] == pytest.approx(1 - 1 / num_batches)  # all but the first push
    assert synchronous["staleness"] == 0
    updates = math.ceil(num_batches / 2)
    assert synchronous["target_words_per_update"] == pytest.approx(words / updates)
    settings = read_toml(out / "synchronous" / "seed-1" / "config.toml")
    assert settings["schedule.words_scaling"] == "linear"
    assert settings["schedule.reference_words"] == round(baseline["target_words_per_update"])
    logs = {path: path.read_bytes() for path in out.glob("*/seed-1/logs/metrics.jsonl")}
    assert len(logs) == 2
    assert "2 runs, 2 of them ended before" in run()
    assert logs == {path: path.read_bytes() for path in logs}
    assert "| synchronous |" in (out / "report.md").read_text("utf-8")
