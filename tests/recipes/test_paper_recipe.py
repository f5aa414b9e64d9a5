"""The paper's ablation: its arithmetic on made-up logs, its settings, resuming, a tiny run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nmtasync.config.load import read_toml, to_toml
from nmtasync.config.schema import Config
from nmtasync.errors import UserError
from nmtasync.optim.schedules import words_scale
from nmtasync.report.curves import Point, reach_bleu, reach_cross_entropy, smooth
from nmtasync.run_directory import RunDirectory
from recipes.paper.measure import measure
from recipes.paper.report import as_json, as_markdown, collect
from recipes.paper.rows import (
    BASELINE,
    OVERLAYS,
    ROWS,
    Machine,
    Row,
    find_rows,
    read_costs,
    row_config,
)
from recipes.paper.run import HERE, Runner, Task, parse_rates
from tests.support.repository import REPOSITORY
from tests.support.runs import words_of_an_epoch

SIMULATED = Machine(4, "cpu", read_costs(HERE / "four_gpus.toml"), None)
REAL = Machine(4, "cuda:0,cuda:1,cuda:2,cuda:3", None, None)


def log(out: Path, row: Row, seed: int, *lines: dict) -> RunDirectory:
    """Write a log, and a configuration, as a run would have."""
    run = RunDirectory(out / row.name / f"seed-{seed}")
    run.logs.mkdir(parents=True)
    run.config.write_text(to_toml(Config()), "utf-8")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.logs / "metrics.jsonl").write_text(text, "utf-8")
    return run


def train(
    updates: int, seconds: float, words: float = 100.0, pace: float = 200.0, epoch: float = 1.0
) -> dict:
    """A line of training."""
    clocks = {"updates": updates, "time_seconds": seconds, "epoch": epoch}
    figures = {"target_words_per_update": words, "target_words_per_second": pace}
    return {"event": "train", **clocks, **figures, "staleness_mean": 3.0}


def valid(updates: int, seconds: float, bleu: float | None, cross_entropy: float = 2.0) -> dict:
    clocks = {"updates": updates, "time_seconds": seconds}
    return {"event": "valid", **clocks, "bleu": bleu, "cross_entropy": cross_entropy}


def end(reason: str = "reached training.max_epochs = 6") -> dict:
    return {"event": "end", "updates": 100, "time_seconds": 99.0, "reason": reason}


def test_figures_are_means_over_updates(tmp_path):
    run = log(
        tmp_path,
        BASELINE,
        1,
        {**train(10, 5.0, words=100.0, pace=200.0), "staleness_mean": 0.0},
        valid(10, 2.5, 1.5, 4.0),
        {**train(40, 20.0, words=200.0, pace=400.0), "staleness_mean": 4.0},
        valid(40, 20.0, 0.5, 3.5),
        end(),
    )
    measured = measure(run)
    assert measured is not None and measured.ended == "reached training.max_epochs = 6"
    assert measured.target_words_per_update == (10 * 100 + 30 * 200) / 40
    assert measured.target_words_per_second == 7000 / 20
    assert measured.staleness == 30 * 4 / 40
    assert (measured.best_bleu, measured.lowest_cross_entropy) == (1.5, 3.5)
    # halfway through the first line, whose updates are smaller than those of the second
    assert [point.target_words for point in measured.points] == [500, 7000]
    assert [(size.target_words, size.per_update) for size in measured.update_sizes] == [
        (1000, 100),
        (7000, 200),
    ]
    assert measured.learning_rate == Config().schedule.learning_rate


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


def curve(*places: tuple[float, float, float]) -> list[Point]:
    """Points of target words, BLEU and cross-entropy; ten words a second."""
    return [Point(words / 10, words, bleu, entropy) for words, bleu, entropy in places]


def test_a_target_is_reached_on_the_line_between_validations():
    points = curve((100, 8, 5.0), (200, 12, 4.0), (300, 10, 4.5), (400, 20, 3.0))
    places = {bleu: reach_bleu(points, bleu) for bleu in (4, 8, 11, 15, 20.5)}
    seconds = {bleu: place and place.seconds for bleu, place in places.items()}
    # from BLEU 0 at the start; 11 when it was reached first
    assert seconds == {4: 5.0, 8: 10.0, 11: 17.5, 15: 35.0, 20.5: None}
    assert places[11] == Point(17.5, 175, 11, 4.25)
    entropies = [reach_cross_entropy(points, entropy) for entropy in (6.0, 4.5, 3.5, 2.9)]
    assert [place and place.target_words for place in entropies] == [
        100,
        150,
        pytest.approx(1100 / 3),
        None,
    ]
    assert reach_bleu([], 1.0) is None and reach_cross_entropy([], 1.0) is None


def test_smoothing_is_the_mean_height_of_the_curve_however_often_it_was_validated():
    straight = curve(*((100 * n, 5 * n, 9 - n) for n in range(1, 6)))
    assert smooth(straight, 100)[1:-1] == straight[1:-1]
    # at the ends of what there is, the mean of one side
    assert smooth(straight, 100)[0] == Point(10, 100, 7.5, 7.5)
    peak = curve((0, 10, 3), (100, 20, 2), (200, 10, 3))
    # from 15 at 50 words to 20, and back
    assert smooth(peak, 50)[1] == Point(10, 100, 17.5, 2.25)
    often = curve(*((25 * n, 20 - abs(n - 4) * 2.5, 2 + abs(n - 4) * 0.25) for n in range(9)))
    assert smooth(often, 50)[::4] == smooth(peak, 50)
    assert smooth(peak[:1], 50) == peak[:1]


def test_rows_are_compared_with_the_baseline_of_their_seed(tmp_path):
    delay, momentum, local = find_rows("delay,momentum,local-optimizers")
    # an epoch of 20 words: nothing to smooth between validations 10,000 words apart
    for seed, bleu, factor in ((1, 20.2, 1.0), (2, 10.2, 2.0)):
        lines = [train(200, factor * 100.0, pace=200 / factor, epoch=1000.0)]
        halves = [valid(100, factor * 50.0, bleu / 2, 4.0), valid(200, factor * 100.0, bleu, 2.0)]
        log(tmp_path, BASELINE, seed, *lines, *halves, end())
        # twice as many words a second as seed 1 of the baseline, and as many words in all
        twice = train(200, 50.0, pace=400.0, epoch=1000.0)
        log(tmp_path, delay, seed, twice, valid(200, 50.0, bleu - 0.2, 1.0), end())
        log(tmp_path, momentum, seed, twice, valid(200, 50.0, 15.0), end("terminated"))
        log(tmp_path, local, seed, twice, valid(200, 50.0, 1.0), end())
    rows = collect(tmp_path)
    report = json.loads(json.dumps(as_json(rows, [])))
    by_name = {row["name"]: row["seeds"] for row in report["rows"]}
    assert list(by_name) == ["baseline", "delay", "local-optimizers", "momentum"]

    def timings(name: str, target: str, figure: str) -> list[float | None]:
        return [by_name[name][seed]["timings"][target][figure] for seed in ("1", "2")]

    # half an epoch at the end of the line takes a little off the best
    off = {1: 10.1 * 5 / 10_000, 2: 5.1 * 5 / 10_000}
    best = {1: 20.2 - off[1], 2: 10.2 - off[2]}
    smoothed = [by_name["baseline"][seed]["best_smoothed_bleu"] for seed in ("1", "2")]
    assert smoothed == pytest.approx(list(best.values()))
    assert timings("baseline", "best", "target") == pytest.approx([best[1] - 0.2, best[2] - 0.2])
    assert timings("baseline", "share", "target") == pytest.approx([0.95 * best[1], 0.95 * best[2]])
    for target in ("best", "share", "cross_entropy"):
        assert timings("baseline", target, "speed_up") == [1.0, 1.0]
    own = [factor * (50 + 50 * (b / 2 - 0.2) / (b / 2)) for b, factor in ((20.2, 1.0), (10.2, 2.0))]
    assert timings("baseline", "best", "seconds") == pytest.approx(own, rel=1e-3)
    speed_ups = [own[0] / 50, own[1] / 50]
    assert timings("delay", "best", "speed_up") == pytest.approx(speed_ups, rel=1e-3)
    assert timings("delay", "best", "by_pace") == pytest.approx([2.0, 4.0])
    assert timings("delay", "best", "by_words") == pytest.approx(
        [s / p for s, p in zip(speed_ups, (2, 4), strict=True)], rel=1e-3
    )
    # one validation: cross-entropy is below the target from there on
    assert timings("delay", "cross_entropy", "seconds") == [50.0, 50.0]
    assert timings("momentum", "best", "seconds")[0] is None
    assert timings("momentum", "best", "seconds")[1] == pytest.approx(50 * 10 / 15, rel=1e-3)

    text = as_markdown(rows, [])
    overview, best_table, *_ = text.split("\n## ")
    assert "| + momentum tuning (not ended) | 1, 2 |" in overview
    assert "| baseline" not in best_table
    table = {line.split(" | ")[0][2:]: line for line in best_table.splitlines() if line[:2] == "| "}
    assert table["asynchronous baseline"].endswith("| 1.00 | 1.00 | 1.00 |")
    assert (
        f"| {sum(speed_ups) / 2:.2f} ({speed_ups[0]:.2f} to {speed_ups[1]:.2f}) |"
        in table["+ delay"]
    )
    assert table["+ delay"].endswith("| 3.00 (2.00 to 4.00) |")
    assert "| not reached |" in table["+ local optimizers"]
    assert table["+ momentum tuning"].endswith("| not reached by 1 of 2 | – | – | – | – |")


def test_a_single_lucky_validation_does_not_reach_a_target(tmp_path):
    (delay,) = find_rows("delay")
    # an epoch is as long as two validations are apart
    line = train(400, 400.0, pace=100.0, epoch=4.0)
    rising = [valid(100 * n, 100.0 * n, 10.0 * n) for n in range(1, 5)]
    log(tmp_path, BASELINE, 1, line, *rising, end())
    lucky = [valid(100 * n, 100.0 * n, bleu) for n, bleu in enumerate((5, 38, 5, 5), start=1)]
    log(tmp_path, delay, 1, line, *lucky, end())
    rows = collect(tmp_path)
    report = as_json(rows, [])
    baseline, of_delay = (row["seeds"][1] for row in report["rows"])
    # at its end half of the way from 35 to 40; the share of it on the line from 30 before
    assert baseline["best_smoothed_bleu"] == 37.5
    assert baseline["timings"]["share"]["target"] == pytest.approx(0.95 * 37.5)
    expected = 300 + 100 * (0.95 * 37.5 - 30) / 7.5
    assert baseline["timings"]["share"]["seconds"] == pytest.approx(expected)
    assert of_delay["best_bleu"] == 38.0
    assert of_delay["timings"]["best"]["seconds"] is None
    assert "| 40.00 | 37.50 |" in as_markdown(rows, [])


def test_without_a_baseline_that_has_learnt_there_is_no_target(tmp_path):
    log(tmp_path, BASELINE, 1, train(2, 60.0), valid(2, 50.0, 0.1), end())
    log(tmp_path, ROWS[2], 1, train(2, 60.0), valid(2, 50.0, 0.0), end())
    log(tmp_path, ROWS[2], 2, train(2, 60.0), valid(2, 50.0, 3.0), end())
    text = as_markdown(collect(tmp_path), [])
    # of two rows, and three targets
    assert text.count("| – | – | – | – | – | – |") == 6 and "not reached" not in text


def words_between_validations(config: Config, row: Row) -> float:
    """In tokens; of windows that are chosen, with the smallest of them."""
    options, workers = config.asynchronous, 4 if row.synchronous else 1
    delay = 1 if options.optimizer_delay == "auto" else options.optimizer_delay
    per_update = config.data.batch_tokens * delay * workers
    if options.own_shard == "batch" and options.optimizer_delay != "auto":
        per_update *= 4 / 5  # while four windows are pushed, a shard makes three updates, and two
    return config.training.validate_every * per_update


MODELS = {"transformer": 540, "rnn": 540, "rnn_small": 68, "transformer_small": 68}
CAN_BE_RESOLVED = [row for row in ROWS if "write-back" not in row.overlays]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("row", CAN_BE_RESOLVED, ids=lambda row: row.name)
def test_every_row_sees_as_many_words_between_validations(toy_run, model, row):
    base = {**read_toml(HERE / f"{model}.toml"), "training.validate_every": 480}
    tokens = MODELS[model]
    for machine in (SIMULATED, REAL):
        config = row_config(toy_run, base, row, machine, 1, 6)
        words = words_between_validations(config, row)
        auto = config.asynchronous.optimizer_delay == "auto"
        assert words == pytest.approx(480 * tokens / (4 if auto else 1), rel=0.01)
        larger = 2 if "larger-batch" in row.overlays else 1
        assert config.data.batch_tokens == larger * tokens
        if "warmup" in row.overlays:
            ratio = words / config.training.validate_every
            assert config.schedule.warmup_updates * ratio == pytest.approx(450 * tokens, rel=0.01)
        else:
            assert config.schedule.warmup_updates == 0


RATES = {"larger-batch": 2**0.5, "delay": 2**0.5, "synchronous": 4}
"""What an overlay multiplies the learning rate of an update by."""


@pytest.mark.parametrize("row", CAN_BE_RESOLVED, ids=lambda row: row.name)
def test_learning_rates_follow_words_from_the_baseline_s_or_from_the_row_s_own(toy_run, row):
    base = read_toml(HERE / "transformer.toml")
    plain, own = (row_config(toy_run, base, row, SIMULATED, 1, 6, rate) for rate in (None, 3e-3))
    workers = 4 if row.synchronous else 1
    delay = plain.asynchronous.optimizer_delay
    tokens = plain.data.batch_tokens * workers * (delay if isinstance(delay, int) else 1)
    scale = words_scale(round(plain.schedule.reference_words * tokens / 540), plain.schedule)
    expected = math.prod(RATES.get(name, 1) for name in row.overlays)
    assert scale * plain.schedule.learning_rate == pytest.approx(expected * 5e-4, rel=0.01)
    assert scale * own.schedule.learning_rate == pytest.approx(expected * 3e-3, rel=0.01)


def test_rates_are_read_by_row():
    assert parse_rates("") == {}
    rates = parse_rates("baseline=1e-3,synchronous-warmup=0.5")
    assert rates == {"baseline": 1e-3, "synchronous-warmup": 0.5}
    for text, message in (
        ("dealy=1", "no row 'dealy'"),
        ("delay", "'delay' is not ROW=RATE"),
        ("delay=fast", "'delay=fast' is not ROW=RATE"),
        ("delay=-1", "must be at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            parse_rates(text)


def test_a_mini_batch_of_the_baseline_costs_what_one_of_the_authors_does(toy_run):
    words = words_of_an_epoch(toy_run)
    for file, exchange in (("four_gpus", 0.02), ("two_hosts", 0.2)):
        costs = read_costs(HERE / f"{file}.toml")
        scaled, plain = Machine(4, "cpu", costs, None), Machine(4, "cpu", costs, None, False)
        for tokens in (34, 540):
            base = {**read_toml(HERE / "rnn_small.toml"), "data.batch_tokens": tokens}
            for name in ("baseline", "larger-batch", "synchronous"):
                (row,) = find_rows(name)
                config = row_config(toy_run, base, row, scaled, 1, 6)
                every = row_config(toy_run, base, BASELINE, scaled, 1, 6).training.validate_every
                batch_words = words / every  # the baseline validates after an epoch
                word_seconds = config.simulation.seconds_per_target_word
                assert word_seconds * batch_words == pytest.approx(1920 * 7.8e-5, rel=1e-5)
                assert config.simulation.exchange_latency_seconds == exchange
                config = row_config(toy_run, base, row, plain, 1, 6)
                assert config.simulation.seconds_per_target_word == 7.8e-5
    with_rates = Machine(4, "cpu", {"simulation.seconds_per_batch": 1.0}, None)
    config = row_config(toy_run, read_toml(HERE / "rnn.toml"), BASELINE, with_rates, 1, 6)
    assert config.simulation.seconds_per_target_word == 0.0


def test_what_rows_change(toy_run):
    base = read_toml(HERE / "rnn_small.toml")
    rows = {row.name: row_config(toy_run, base, row, SIMULATED, 1, 6) for row in CAN_BE_RESOLVED}
    words = round(words_of_an_epoch(toy_run) / rows["baseline"].training.validate_every)

    def about(name: str) -> tuple[object, ...]:
        config = rows[name]
        options, optimizer, schedule = config.asynchronous, config.optimizer, config.schedule
        return (
            options.optimizer_delay,
            options.momentum_lead,
            "points" if optimizer.beta_points else (optimizer.beta1, optimizer.beta2),
            schedule.words_scaling,
            optimizer.betas_by_words,
            options.own_shard,
        )

    auto, both = "auto", ("auto", "auto")
    assert {name: about(name) for name in rows if not name.endswith("-warmup")} == {
        "baseline": (1, 0.0, "points", "none", False, "window"),
        "baseline-decay": (1, 0.0, "points", "none", False, "window"),
        "larger-batch": (1, 0.0, "points", "sqrt", False, "window"),
        "delay": (2, 0.0, "points", "sqrt", False, "window"),
        "local-optimizers": (2, 0.0, "points", "sqrt", False, "window"),
        "own-shard": (2, 0.0, "points", "sqrt", False, "batch"),
        "momentum": (2, 0.0, "points", "sqrt", False, "window"),
        "baseline-looking-ahead": (1, auto, both, "none", False, "window"),
        "auto-windows": (auto, 0.0, "points", "sqrt", True, "window"),
        "auto-windows-looking-ahead": (auto, auto, both, "sqrt", True, "window"),
        "auto-windows-for-decay": (auto, auto, both, "none", False, "window"),
        "auto-own-shard": (auto, auto, both, "none", False, "batch"),
        "synchronous": (1, auto, "points", "linear", False, "window"),
        "synchronous-larger-batch": (1, auto, "points", "sqrt", False, "window"),
    }
    for name in ("auto-windows", "auto-windows-looking-ahead", "synchronous", "delay"):
        assert rows[name].schedule.reference_words == words
    assert {name for name in rows if rows[name].schedule.decay == "linear"} == {
        "baseline-decay",
        "baseline-decay-warmup",
    }
    assert rows["synchronous"].simulation.synchronous
    assert read_toml(OVERLAYS / "write-back.toml") == {"asynchronous.local_write_back": True}
    (write_back,) = find_rows("write-back")
    (local,) = find_rows("local-optimizers")
    assert write_back.overlays == (*local.overlays, "write-back")


def test_a_row_has_all_its_overlays_on_its_own_clocks(toy_run):
    base = {**read_toml(HERE / "rnn_small.toml")}
    (row,) = find_rows("momentum-warmup")
    baseline = row_config(toy_run, base, BASELINE, SIMULATED, 3, 8)
    config = row_config(toy_run, base, row, SIMULATED, 3, 8)
    # half of eight epochs; four times the words: batches twice as large, two of them to a push
    middle = 4 * baseline.training.validate_every / 4
    assert config.optimizer.beta_points == f"1:0.9:0.999!,{middle:.0f}:0.92:0.998"
    assert config.asynchronous.local_optimizer_batches == 150
    assert (config.training.seed, config.training.max_epochs) == (3, 8)
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
    decaying = replace(task.config.schedule, decay="linear")
    task.run.config.write_text(to_toml(replace(task.config, schedule=decaying)), "utf-8")
    longer = a_task(run, max_epochs=7)
    with pytest.raises(UserError, match=r"begun with training\.max_epochs = 6, not 7"):
        replace(longer, config=replace(longer.config, schedule=decaying)).ended()
    task.prepare(toy_run)
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
    command += ["--rates=synchronous=5e-4", "--batch-tokens=100"]
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
    assert settings["data.batch_tokens"] == 100
    assert (baseline["learning_rate"], synchronous["learning_rate"]) == (1e-3, 5e-4)
    assert 0 < baseline["lowest_cross_entropy"] < 6
    assert settings["schedule.words_scaling"] == "linear"
    assert settings["schedule.reference_words"] == round(baseline["target_words_per_update"])
    logs = {path: path.read_bytes() for path in out.glob("*/seed-1/logs/metrics.jsonl")}
    assert len(logs) == 2
    assert "2 runs, 2 of them ended before" in run()
    assert logs == {path: path.read_bytes() for path in logs}
    assert "| synchronous |" in (out / "report.md").read_text("utf-8")
