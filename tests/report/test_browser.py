"""The page in a real browser: it draws, answers, fetches nothing and runs nothing of others.

Chromium is found by its name (Debian: `apt install chromium`), or is the one that
`playwright install chromium` has fetched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmtasync.report.figures import read_report, time_to_bleu
from nmtasync.report.page import render

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("plotly", reason="the extra `report` is not installed")

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ALONE = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PLOTS = (
    *("bleu", "cross_entropy", "target_words_per_second", "staleness", "histogram"),
    *("learning_rate", "batches_per_push", "momentum"),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    with playwright.sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: `apt install chromium`")
        browser = driver.chromium.launch(executable_path=path, args=ALONE)
        yield browser
        browser.close()


class Shown:
    """A page that is shown, with all that the browser had to say and to fetch for it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_context(**options).new_page()
        self.said: list[str] = []
        self.fetched: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(
            "ids => ids.every(id => document.querySelector(`#${id} .main-svg`))", arg=list(PLOTS)
        )

    def rows(self) -> list[list[str]]:
        """The table of times, cell by cell."""
        lines = self.page.locator("#times_body tr").all()
        return [line.locator("th, td").all_inner_texts() for line in lines]

    def move(self, target: float) -> None:
        """Move the slider."""
        self.page.locator("#target").fill(str(target))


@pytest.fixture
def page(two_runs: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(render(read_report(two_runs, 10)), "utf-8")
    return path


def test_it_draws_without_an_error_and_without_a_request(chromium: Any, page: Path) -> None:
    shown = Shown(chromium, page)
    for plot in PLOTS:
        assert shown.page.locator(f"#{plot} .main-svg").first.is_visible(), plot
        assert shown.page.evaluate(f"document.getElementById('{plot}').data.length") >= 2, plot
    shown.page.locator("#bleu .nsewdrag").hover()
    shown.page.locator("#bleu .hoverlayer .hovertext").first.wait_for()
    assert shown.said == []
    assert shown.fetched == [page.as_uri()]


def test_texts_of_others_do_nothing(chromium: Any, page: Path, two_runs: list[Path]) -> None:
    shown = Shown(chromium, page)
    assert shown.page.evaluate("window.hacked") is None
    assert shown.page.locator("img").count() == 0
    legend = shown.page.locator("#bleu .legendtext").all_inner_texts()
    names = shown.page.locator("#bleu .legendtext").evaluate_all(
        "all => all.map(e => e.textContent)"
    )
    assert names == [path.name for path in two_runs], legend
    assert shown.page.locator("#baseline option").all_inner_texts()[1] == two_runs[1].name
    # what would run is refused by the page's policy, too
    shown.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: 'window.hacked = 3'}))"
    )
    assert shown.page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in line for line in shown.said)


def test_the_slider_times_runs_as_the_library_does(
    chromium: Any, page: Path, two_runs: list[Path]
) -> None:
    shown = Shown(chromium, page)
    runs = read_report(two_runs, 0).runs
    for target in (0.3, 7.77, 20.0, 35.99, 36.0):
        shown.move(target)
        assert shown.page.locator("#chosen").inner_text() == f"{target:.2f}"
        for expected, row in zip(time_to_bleu(runs, target), shown.rows(), strict=True):
            assert expected.seconds is not None and expected.target_words is not None
            minutes, seconds = divmod(int(expected.seconds + 0.5), 60)
            assert row[1:3] == [f"{minutes}:{seconds:02d}", f"{expected.target_words:,.0f}"]
            assert row[4] == f"{expected.speed_up:.2f}"
    assert shown.rows()[1][4:] == ["2.00", "1.00", "2.00"]
    shown.page.select_option("#baseline", index=1)
    assert shown.rows()[0][4:] == ["0.50", "1.00", "0.50"]
    line = "document.getElementById('bleu').layout.shapes[0].y0"
    shown.page.wait_for_function(f"{line} === 36")
    assert shown.said == []


def test_curves_go_over_time_words_and_updates(chromium: Any, page: Path) -> None:
    shown = Shown(chromium, page)
    last = "id => document.getElementById(id).data[0].x.at(-1)"
    for clock, place in (("target_words", 4000), ("updates", 400), ("epochs", 4), ("seconds", 40)):
        shown.page.check(f"input[value={clock}]")
        for plot in ("bleu", "cross_entropy", "learning_rate", "staleness"):
            assert shown.page.evaluate(last, plot) == pytest.approx(place), (clock, plot)
    heights = "document.getElementById('bleu').data[0].y"
    raw = shown.page.evaluate(heights)
    shown.page.check("#smoothed")
    assert shown.page.evaluate(heights) != raw
    assert shown.said == []


def test_a_smoothed_curve_is_timed_smoothed(
    chromium: Any, page: Path, two_runs: list[Path]
) -> None:
    shown = Shown(chromium, page)
    before = shown.rows()
    shown.move(0.9)
    shown.page.check("#smoothed")
    assert shown.rows() != before
    assert float(shown.page.get_attribute("#target", "max")) < 36


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colours_of_the_system_and_fits_a_phone(
    chromium: Any, page: Path, scheme: str
) -> None:
    phone = {"width": 390, "height": 844}
    shown = Shown(chromium, page, color_scheme=scheme, viewport=phone)
    width = shown.page.evaluate("document.documentElement.scrollWidth")
    assert width == phone["width"], "it must not be scrolled sideways"
    colour = "getComputedStyle(document.body)[name].match(/\\d+/g)[0] * 1"
    paper, ink = (
        shown.page.evaluate(f"name => {colour}", name) for name in ("backgroundColor", "color")
    )
    assert (paper < ink) is (scheme == "dark")
    assert shown.page.evaluate("document.getElementById('bleu').layout.font.color") == (
        shown.page.evaluate(
            "getComputedStyle(document.documentElement).getPropertyValue('--text').trim()"
        )
    )


def test_runs_without_figures_are_shown_all_the_same(
    chromium: Any, two_runs: list[Path], tmp_path: Path
) -> None:
    for path in two_runs:
        (path / "logs/metrics.jsonl").unlink()
    path = tmp_path / "page.html"
    path.write_text(render(read_report(two_runs, 10)), "utf-8")
    shown = Shown(chromium, path)
    assert shown.page.locator("#target").is_disabled()
    assert [row[1] for row in shown.rows()] == ["not reached", "not reached"]
    assert shown.said == []
