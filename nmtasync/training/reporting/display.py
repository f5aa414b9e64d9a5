"""What the user sees while training goes on: a live table, or plain lines where no one looks."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nmtasync.checkpoints.history import Validation
from nmtasync.machine.terminal import duration, is_live

Figures = dict[str, Any]


class Display:
    """A view of training on a console.

    In a terminal the figures stay in one place, under the lines of validations and events.
    Elsewhere each report is a line.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        if is_live(console):
            self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
            self._live.update(Text("starting …", style="dim"))
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def message(self, text: str) -> None:
        """Show a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def training(self, figures: Figures, clocks: Figures, done: float | None) -> None:
        """Show the figures of the last interval, and the share of the training that is over."""
        if self._live:
            self._live.update(figures_table(figures, clocks, done))
        else:
            self.message(_line(figures, clocks, done))

    def validation(
        self, validation: Validation, best: bool, num_since_best: int, seconds: float
    ) -> None:
        """Show a validation; `seconds` is the time now, later than that of the checkpoint."""
        bleu = "" if validation.bleu is None else f" · BLEU {validation.bleu:.2f} (greedy)"
        verdict = "best so far" if best else f"best was {num_since_best} before"
        self.message(
            f"[{duration(seconds)}] validation of update {validation.updates:,}: "
            f"cross-entropy {validation.cross_entropy:.4f}{bleu} · {verdict}"
        )


def seconds_left(done: float | None, seconds: float) -> float | None:
    """The time left if the rest goes as fast as what is done."""
    return None if not done else seconds * (1 - done) / done


def _rows(figures: Figures, clocks: Figures) -> list[tuple[str, str]]:
    return [
        ("update", f"{clocks['updates']:,}"),
        ("epoch", f"{clocks['epoch']:.2f}"),
        ("loss", f"{figures['loss']:.4f}"),
        ("source words/s", _pace(figures["source_words_per_second"])),
        ("target words/s", _pace(figures["target_words_per_second"])),
        ("staleness", f"{figures['staleness_mean']:.2f} (max {figures['staleness_max']})"),
        ("learning rate", f"{figures['learning_rate']:.2e}"),
        ("noise scale", _words(figures["noise_scale"])),
    ]


def _pace(words_per_second: float | None) -> str:
    return "–" if words_per_second is None else f"{words_per_second:,.0f}"


def _words(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f} words"


def _line(figures: Figures, clocks: Figures, done: float | None) -> str:
    left = seconds_left(done, clocks["time_seconds"])
    rows = [f"{name} {value}" for name, value in _rows(figures, clocks)]
    rest = [] if left is None else [f"left {duration(left)}"]
    return f"[{duration(clocks['time_seconds'])}] " + " · ".join(rows + rest)


def figures_table(figures: Figures, clocks: Figures, done: float | None) -> RenderableType:
    """Lay figures out side by side, and under them how far training has come, if that is known."""
    table = Table.grid(padding=(0, 3))
    rows = _rows(figures, clocks)
    table.add_row(*(Text(name, style="dim") for name, _ in rows))
    table.add_row(*(Text(value, style="bold") for _, value in rows))
    left = seconds_left(done, clocks["time_seconds"])
    elapsed = f"{duration(clocks['time_seconds'])} passed"
    if done is None or left is None:
        return Group(table, Text(elapsed, style="dim"))
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=1.0, completed=done, width=40),
        Text(f"{100 * done:.0f}% · {elapsed} · {duration(left)} left", style="dim"),
    )
    return Group(table, bar)
