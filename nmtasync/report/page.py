"""A report as one page of HTML that needs nothing beside it.

What runs hold is data of others: Jinja escapes it where it becomes HTML and where it becomes JSON,
the page's own program makes texts of it, and the page's policy lets no other program run, and
nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from nmtasync.errors import UserError
from nmtasync.machine.terminal import duration
from nmtasync.report.figures import Report

_FILES = Path(__file__).with_name("page")
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"),
    *("#8c6bb1", "#a6761d", "#7f7f7f", "#b5bd00"),
)
"""Of the runs, in their order; the first six are told apart by colour-blind people, too (Okabe and
Ito 2008)."""

_OF_CURVES = ("name", "training", "staleness_by_worker", "staleness_histogram", "validations")


def render(report: Report) -> str:
    """Write a report as HTML.

    Args:
        report: What to show.

    Raises:
        UserError: What makes it is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            "is needed for the page, and not installed",
            where=str(error.name).partition(".")[0],
            remedy="run `pip install 'nmtasync[report]'`, or leave -o out",
        ) from None
    # as browsers read it, so that its hash is right
    library = str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
    environment = Environment(
        loader=FileSystemLoader(_FILES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(figure=_figure, duration=_duration)
    program = (_FILES / "page.js").read_text("utf-8")
    content = report.to_json()
    names = [run.name for run in report.runs]

    def swatch(index: int) -> Markup:
        mark = Markup('<span class="swatch" style="background: {}"></span>')
        return mark.format(COLOURS[index % len(COLOURS)])

    return environment.get_template("page.html").render(
        title=f"nmtasync: {', '.join(names)}",
        report=content,
        numbers={name: index for index, name in enumerate(names)},
        curves={
            "runs": [{name: run[name] for name in _OF_CURVES} for run in content["runs"]],
            "target": content["time_to_bleu"]["bleu"],
            "colours": COLOURS,
        },
        swatch=swatch,
        policy=_policy(library, program),
        style=Markup((_FILES / "page.css").read_text("utf-8")),
        library=Markup(library),
        program=Markup(program),
    )


def _policy(*programs: str) -> str:
    """Let these programs run and no others, and nothing be fetched."""
    digests = (hashlib.sha256(program.encode("utf-8")).digest() for program in programs)
    known = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {known}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)
