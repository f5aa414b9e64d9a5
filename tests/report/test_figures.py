"""The figures of a report are those of the logs, whatever has become of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nmtasync.errors import UserError
from nmtasync.report.curves import Point
from nmtasync.report.figures import MAX_NUMBERS, read_report, time_to_bleu
from nmtasync.report.options import options_that_differ, read_options
from nmtasync.report.run_figures import read_run
from nmtasync.report.thinning import thin, thin_to_peaks
from nmtasync.run_directory import RunDirectory
from nmtasync.training.reporting.staleness import StalenessFigures
from tests.support.reports import event_line, logged_run, train_line, valid_line
from tests.support.runs import events, final_state, simulate


def test_a_real_run_is_shown_as_its_checkpoint_counts_it(toy_run: RunDirectory) -> None:
    simulate(
        toy_run,
        simulation__speeds="1,1,1",
        training__max_updates=9,
        training__validate_every=3,
        training__validate_bleu=True,
        training__validate_metric="bleu",
        training__log_every_seconds=0.0,
    )
    figures = read_run("toy", toy_run.root)
    state = final_state(toy_run)[1]
    assert figures.ended == "reached training.max_updates = 9" and not figures.notes
    assert figures.training["target_words"][-1] == pytest.approx(state["progress"]["target_words"])
    assert figures.training["updates"][-1] == 9
    bleu = [entry["bleu"] for entry in events(toy_run, "valid")]
    assert [point.bleu for point in figures.points] == bleu and len(bleu) == 3
    assert list(figures.staleness_by_worker) == [0, 1, 2]
    assert max(figures.staleness_histogram) == 2 and figures.staleness_histogram[2] > 0


def test_momentum_is_that_of_the_configuration(tmp_path: Path) -> None:
    lines = [train_line(1, 1.0, staleness_mean=0.0), train_line(2, 2.0, staleness_mean=3.0)]
    plain = read_run("plain", logged_run(tmp_path / "plain", lines).root)
    assert plain.training["momentum"] == pytest.approx([0.9, 0.95])  # a memory twice as long
    descent = {"optimizer.name": "sgd", "optimizer.momentum": 0.7}
    sgd = read_run("sgd", logged_run(tmp_path / "sgd", lines, descent).root)
    assert sgd.training["momentum"] == [0.7, 0.7]


def test_momentum_by_counted_words_needs_a_checkpoint_that_says_them(tmp_path: Path) -> None:
    settings = {"optimizer.betas_by_words": True, "schedule.reference_words": "auto"}
    run = logged_run(tmp_path / "run", [train_line(1, 1.0)], settings)
    unknown = read_run("run", run.root)
    assert unknown.training["momentum"] == [None]
    assert ["momentum" in note for note in unknown.notes] == [True]
    state = {"config": {"schedule": {"reference_words": 25}}}
    (run.checkpoints / "1").mkdir(parents=True)
    (run.checkpoints / "latest").write_text("1\n")
    (run.checkpoints / "1/state.json").write_text(json.dumps(state))
    known = read_run("run", run.root)
    assert known.training["momentum"] == pytest.approx([0.9**2])  # updates of 50 words
    assert not known.notes


def test_a_run_that_is_under_way_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    lines = [train_line(10, 5.0), valid_line(10, 5.0, 3.0), train_line(20, 10.0)]
    run = logged_run(tmp_path / "run", lines)
    path = run.logs / "metrics.jsonl"
    whole = path.read_bytes()
    before = len(whole.splitlines()[0]) + len(whole.splitlines()[1]) + 2
    for length in range(before, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        figures = read_run("run", run.root)
        assert (figures.training["updates"], figures.ended, figures.notes) == ([10], None, [])
        assert len(figures.points) == 1
    path.write_bytes(b"")
    assert read_report([run.root], 1).to_json()["runs"][0]["summary"]["seconds"] is None
    path.unlink()
    assert read_run("run", run.root).points == []


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    run = logged_run(tmp_path / "run", [train_line(10, 5.0), train_line(20, 10.0)])
    first, second = (run.logs / "metrics.jsonl").read_bytes().splitlines()
    torn = first[:40] + second  # a killed process left half a line, and another went on
    no_clock = b'{"event": "train", "updates": "\\ud800"}'
    damaged = (torn, b"\xff\xfe", no_clock, b"[1]", b"{" * 5000)
    (run.logs / "metrics.jsonl").write_bytes(b"\n".join([first, *damaged, second]) + b"\n")
    figures = read_run("run", run.root)
    assert figures.training["updates"] == [10, 20]
    assert [note.partition(": ")[2] for note in figures.notes] == ["5 damaged line(s) are left out"]


def test_figures_of_any_type_make_json(tmp_path: Path) -> None:
    odd = {"loss": float("nan"), "learning_rate": "x", "staleness_by_worker": {"0": None, "y": 1}}
    odd |= {"staleness_histogram": {"1": -3, "-1": 5, "2": 1.5}, "target_words_per_second": None}
    lines = [train_line(10, 5.0, **odd), valid_line(10, 5.0, None, cross_entropy=float("inf"))]
    lines += [
        event_line("worker", 10, 5.0, worker="\ud800", what={"a": 1}),
        train_line(11, 10**400),
    ]
    run = logged_run(tmp_path / "run", lines)
    content = read_report([run.root], 1).to_json()
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    (shown,) = json.loads(text.encode("utf-8"))["runs"]
    assert shown["training"]["loss"] == [None]
    assert shown["staleness_by_worker"] == {}
    assert shown["staleness_histogram"] == {"2": 1}
    assert shown["validations"]["cross_entropy"] == [None]


def test_what_a_killed_run_had_done_after_its_checkpoint_does_not_count(tmp_path: Path) -> None:
    lines = [train_line(10, 5.0), valid_line(10, 5.0, 3.0), train_line(20, 10.0)]
    lines += [valid_line(20, 10.0, 9.0), train_line(30, 15.0)]  # killed; resumed from update 15
    lines += [train_line(25, 12.0), valid_line(20, 11.0, 4.0)]
    figures = read_run("run", logged_run(tmp_path / "run", lines).root)
    assert figures.training["updates"] == [10, 20, 25]
    assert figures.training["target_words"] == [500, 1000, 1200]
    assert [(point.bleu, point.target_words) for point in figures.points] == [(3, 500), (4, 1100)]


def test_a_rollback_takes_time_but_no_words(tmp_path: Path) -> None:
    lines = [train_line(10, 5.0), train_line(20, 10.0)]
    lines += [event_line("rollback", 20, 10.0, checkpoint=10, reason="diverged", rollbacks=1)]
    lines += [train_line(15, 12.5), event_line("end", 15, 13.0, reason="reached the end")]
    figures = read_run("run", logged_run(tmp_path / "run", lines).root)
    assert figures.training["seconds"] == [5.0, 12.5]
    assert figures.training["target_words"] == [500, 750]
    assert [event.what for event in figures.events] == [
        "went back to update 10: diverged",
        "ended: reached the end",
    ]


def test_the_histogram_is_of_all_pushes(tmp_path: Path) -> None:
    late = StalenessFigures()
    lines = []
    for number, staleness in enumerate([(0, 1), (2, 2), (1, 1)], 1):
        part = StalenessFigures()
        for gathered in (late, part):
            gathered.add(number % 2, staleness)
        lines.append(train_line(number, number, **part.figures()))
    figures = read_run("run", logged_run(tmp_path / "run", lines).root)
    assert figures.staleness_histogram == late.figures()["staleness_histogram"]


def test_times_to_a_bleu_are_read_off_the_lines_between_validations(tmp_path: Path) -> None:
    slow = [train_line(100, 100.0), valid_line(50, 50.0, 10.0), valid_line(100, 100.0, 30.0)]
    quick = [train_line(100, 50.0, pace=150.0), valid_line(20, 10.0, 0.0)]
    quick += [valid_line(100, 50.0, 40.0)]
    runs = [
        read_run(name, logged_run(tmp_path / name, lines).root)
        for name, lines in (("slow", slow), ("quick", quick))
    ]
    first, other = time_to_bleu(runs, 20.0)
    assert (first.seconds, first.target_words, first.updates) == (75.0, 7500.0, 75.0)
    assert (first.speed_up, first.by_words, first.by_pace) == (1.0, 1.0, 1.0)
    assert (other.seconds, other.target_words, other.updates) == (30.0, 4500.0, 60.0)
    assert other.speed_up == pytest.approx(75 / 30)
    assert other.by_words == pytest.approx(7500 / 4500)
    assert other.by_pace == pytest.approx(150 / 100)
    never, reached = time_to_bleu(runs, 35.0)
    assert never.seconds is None and reached.seconds == 45.0 and reached.speed_up is None
    assert read_report([run.path for run in runs], 0).target == 30.0


def test_only_options_that_differ_are_listed(tmp_path: Path) -> None:
    delay, preset = "asynchronous.optimizer_delay", {"model.preset": "tiny"}
    left = read_options(logged_run(tmp_path / "a", [], {delay: 2, **preset}))
    right = read_options(logged_run(tmp_path / "b", [], {delay: 4, **preset}))
    (difference,) = options_that_differ([left, None, right])
    assert (difference.name, difference.values) == (delay, ["2", None, "4"])
    assert options_that_differ([left, left]) == []
    alone = {difference.name: difference.values for difference in options_that_differ([left])}
    assert alone[delay] == ["2"] and "model.preset" in alone


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    roots = [logged_run(tmp_path / name, []).root for name in ("a/seed-1", "b/seed-1", "b/seed-2")]
    names = [run["name"] for run in read_report(roots, 0).to_json()["runs"]]
    assert names == ["a/seed-1", "b/seed-1", "b/seed-2"]
    assert read_report(roots[1:], 0).runs[0].name == "seed-1"
    with pytest.raises(UserError, match="named twice"):
        read_report([roots[0], roots[0] / ".." / "seed-1"], 0)


def test_long_series_keep_their_means_clocks_and_peaks() -> None:
    series = {"seconds": [1.0, 2.0, 3.0, 4.0], "loss": [4.0, 1.0, None, None]}
    assert thin([1, 3, 1, 1], series, 2) == {"seconds": [2.0, 4.0], "loss": [1.75, None]}
    assert thin([1, 3, 1, 1], series, 4) == series
    bleu = [1.0, 9.0, None, 3.0, 2.0, None]
    kept = thin_to_peaks(bleu, {"bleu": bleu, "seconds": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}, 3)
    assert kept == {"bleu": [9.0, 3.0, 2.0], "seconds": [2.0, 4.0, 5.0]}


def test_a_long_log_is_thinned(tmp_path: Path) -> None:
    by_worker = {str(worker): 1.0 / 3 for worker in range(16)}
    lines = [train_line(n, 0.1 + n, n / 7, staleness_by_worker=by_worker) for n in range(1, 6000)]
    lines += [valid_line(n, n / 3, n / 700) for n in range(1, 6000, 2)]
    run = logged_run(tmp_path / "run", lines)
    content = read_report([run.root], 0).to_json()
    assert len(json.dumps(content)) < 12 * MAX_NUMBERS
    (shown,) = content["runs"]
    assert shown["training"]["updates"][-1] == 5999
    assert max(shown["validations"]["bleu"]) == pytest.approx(5999 / 700)


def test_curves_without_words_are_not_smoothed(tmp_path: Path) -> None:
    figures = read_run("run", logged_run(tmp_path / "run", [valid_line(5, 2.0, 8.0)]).root)
    assert figures.points == figures.smoothed == [Point(2.0, 0.0, 8.0, 2.0)]
