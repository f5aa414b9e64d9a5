"""Two runs with logs and translations, whose texts try to run in the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.reports import add_result, event_line, logged_run, train_line, valid_line

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    """One that is twice as fast, and one that is named and translates with malice."""
    texts = tmp_path / "test.de", tmp_path / "test.en"
    texts[0].write_text(f"Zwei Hunde.\nEine Katze {HOSTILE}\n\nEnde.\n", "utf-8")
    texts[1].write_text("Two dogs.\nA cat.\n\nThe end.\n", "utf-8")
    roots = []
    for name, pace, hypotheses in (
        ("steady", 100.0, ["Two dogs.", "One cat.", "", "End."]),
        (
            "<br><img src=x onerror=alert(1)> %{y} $x^$",
            200.0,
            ["Two dog.", HOSTILE, "", "The end."],
        ),
    ):
        lines = []
        for number in range(1, 41):
            seconds = number * 100 / pace
            lines.append(train_line(10 * number, seconds, pace))
            lines.append(valid_line(10 * number, seconds, number * 0.9))
        lines.append(event_line("worker", 400, seconds, worker=1, what=f"died {HOSTILE}"))
        lines.append(event_line("end", 400, seconds, reason=HOSTILE))
        run = logged_run(tmp_path / name, lines, {"data.source_language": "de"})
        add_result(run, "test", hypotheses, texts)
        roots.append(run.root)
    return roots
