"""The page as a file: whole, with nothing of others that could run, and nothing to fetch."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nmtasync.report.figures import read_report
from nmtasync.report.page import render
from tests.support.command_line import CommandLine, one_line
from tests.support.reports import add_result, logged_run, train_line

PLOTLY = pytest.importorskip("plotly", reason="the extra `report` is not installed")


class Elements(HTMLParser):
    """The elements of a page, with their attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts[-1] += data
        else:
            self.texts.append(data)


def page_of(paths: list[Path]) -> str:
    return render(read_report(paths, 10))


def test_texts_of_others_stay_texts(two_runs: list[Path]) -> None:
    page = Elements(page_of(two_runs))
    assert [tag for tag, _ in page.found].count("script") == 3
    assert not [tag for tag, _ in page.found if tag in ("img", "a", "iframe", "object", "link")]
    assert not [name for _, attributes in page.found for name in attributes if name[:2] == "on"]
    text = "".join(page.texts)
    assert text.count("window.hacked = 1") >= 4  # source, translation, event, state
    assert json.loads(page.scripts[0])["runs"][1]["name"] == two_runs[1].name


def test_only_the_programs_of_the_page_may_run(
    two_runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLOTLY.offline, "get_plotlyjs", lambda: "1;\r\n2;\r3;")
    page = Elements(page_of(two_runs))
    (policy,) = [a["content"] for t, a in page.found if a.get("http-equiv")]
    assert policy is not None and "default-src 'none'" in policy
    assert page.scripts[1] == "1;\n2;\n3;", "browsers read it so, and hash that"
    allowed = re.search(r"script-src ([^;]*)", policy)[1].split()  # type: ignore[index]
    digests = [hashlib.sha256(text.encode("utf-8")).digest() for text in page.scripts[1:]]
    assert allowed == [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def test_translations_stand_side_by_side_with_their_differences(two_runs: list[Path]) -> None:
    page = page_of(two_runs)
    text = re.sub(r"\s+", " ", page.partition('class="translations"')[2])
    assert '<dd class="source" dir="auto">Zwei Hunde.' in text
    assert "Two <mark>dogs</mark>." in text and 'Two <mark class="off">dog</mark>.' in text
    assert '<mark class="off">End</mark>.' in text and "<mark>The end</mark>." in text


def test_samples_need_neither_source_nor_reference(two_runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "test.en").write_text("Changed.\n")
    report = read_report(two_runs, 2)
    (samples,) = report.samples
    assert [sentence.line for sentence in samples.sentences] == [1, 3]
    assert samples.sentences[0].source == "Zwei Hunde." and samples.sentences[0].reference is None
    assert [note for note in report.notes if "reference of test is not shown" in note]
    assert read_report(two_runs, 0).samples == []


def test_a_file_is_quoted_only_if_its_hash_is_known(tmp_path: Path) -> None:
    """Results that somebody else has made must not bring files of this machine into a page."""
    secret = tmp_path / "secret"
    secret.write_text("launch code 4711\n")
    run = logged_run(tmp_path / "run", [])
    add_result(run, "test", ["x"], (secret, secret))
    path = run.evaluation / "test.json"
    content = json.loads(path.read_text())
    assert "launch code 4711" in page_of([run.root])
    content["source"]["sha256"] = content["reference"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    assert "launch code 4711" not in page_of([run.root])


@pytest.mark.parametrize(
    "damage",
    [b"{", b"[]", b'{"name": "test"}', b'{"name": 5, "decoding": {}}', b"\xff"],
)
def test_damaged_results_are_left_out_and_named(
    damage: bytes, two_runs: list[Path], nmtasync: CommandLine, tmp_path: Path
) -> None:
    (two_runs[0] / "evaluation/test.json").write_bytes(damage)
    (two_runs[1] / "evaluation/test.hyp").write_bytes(damage * 3 + b"\xff\n")
    result = nmtasync("report", *two_runs, "-o", tmp_path / "page.html")
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == 2 and "Traceback" not in result.stderr
    assert (
        "evaluation/test.json: " in result.stderr and "test.hyp:1: invalid UTF-8" in result.stderr
    )
    assert Elements((tmp_path / "page.html").read_text("utf-8")).found


def test_a_score_that_is_missing_leaves_its_cell_empty(two_runs: list[Path]) -> None:
    path = two_runs[0] / "evaluation/test.json"
    content = json.loads(path.read_text("utf-8"))
    del content["chrf"]
    path.write_text(json.dumps(content), "utf-8")
    row = page_of(two_runs).partition('<table id="test_sets">')[2].partition("steady")[2]
    assert re.findall(r"<td[^>]*>([^<\s]*)", row)[:3] == ["12.50", "–", "12.50"]


def test_json_and_page_show_the_same(
    two_runs: list[Path], nmtasync: CommandLine, tmp_path: Path
) -> None:
    result = nmtasync("report", *two_runs, "--json", "-o", tmp_path / "new" / "page.html")
    figures = json.loads(result.stdout)
    page = Elements((tmp_path / "new/page.html").read_text("utf-8"))
    shown = json.loads(page.scripts[0])
    for run, curves in zip(figures["runs"], shown["runs"], strict=True):
        assert run.items() >= curves.items()
    assert figures["time_to_bleu"]["runs"][1]["speed_up"] == 2.0
    assert figures["test_sets"][0]["bleu"]["score"] == 12.5
    assert "12.50" in "".join(page.texts) and "<i>other: BLEU 0.0625" in "".join(page.texts)


def test_the_page_stays_small_beside_its_library(tmp_path: Path) -> None:
    workers = {str(worker): 1.0 / 3 for worker in range(8)}
    lines = [train_line(n, n / 3, n / 7, staleness_by_worker=workers) for n in range(1, 9000)]
    roots = [logged_run(tmp_path / name, lines).root for name in ("a", "b")]
    library = PLOTLY.offline.get_plotlyjs()
    page = page_of(roots)
    assert 100_000 < len(page) - len(library) < 2_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN/none", "--json"], "there is no such directory"),
        ([".", "--json"], "is no run: it has neither"),
        (["RUN", "RUN", "--json"], "is named twice"),
        (["RUN"], "there is nothing to write"),
        (["RUN", "-o", "RUN/config.toml/page.html"], "is in the way"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    arguments: list[str],
    words: str,
    two_runs: list[Path],
    nmtasync: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = nmtasync("report", *(word.replace("RUN", str(two_runs[0])) for word in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    assert words in one_line(result.stderr)


@pytest.mark.parametrize(
    ("library", "option"),
    [("plotly.offline", "-o"), ("jinja2", "-o"), ("matplotlib.figure", "--png")],
)
def test_a_library_that_is_missing_is_named(
    library: str,
    option: str,
    two_runs: list[Path],
    nmtasync: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = nmtasync("report", *two_runs, option, tmp_path / "there")
    assert (result.returncode, result.stdout) == (2, "")
    line = one_line(result.stderr)
    assert f"{library.partition('.')[0]}: is needed for the p" in line
    assert "pip install 'nmtasync[report]'" in line
    assert nmtasync("report", *two_runs, "--json").returncode == 0  # which needs none


def test_a_page_is_written_whole_or_not_at_all(
    two_runs: list[Path], nmtasync: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pages" / "page.html"
    path.parent.mkdir()
    path.write_text("the one before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = nmtasync("report", *two_runs, "-o", path)
    assert result.returncode == 1
    assert "the disk or its quota is full" in one_line(result.stderr)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    assert path.read_text() == "the one before"


def test_pictures_of_all_curves(
    two_runs: list[Path], nmtasync: CommandLine, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    empty = logged_run(tmp_path / "empty", []).root
    result = nmtasync("report", *two_runs, empty, "--png", tmp_path / "pictures")
    assert (result.returncode, result.stderr) == (0, "")
    pictures = {path.stem: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert {"bleu", "cross_entropy", "staleness", "learning_rate", "momentum"} <= set(pictures)
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
