"""Progress of a command that may take long, on standard error: a bar, or plain lines."""

from __future__ import annotations

import time

import click
import rich.console
import rich.progress

from nmtasync.machine.terminal import is_live

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 10.0


class ProgressDisplay:
    """Shows what is being done: a live bar in a terminal, else a plain line now and then.

    Plain lines only begin after 2 seconds, and come every 10 seconds or with each new step.

    Args:
        unit: What is counted, for example "pairs".
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._start = time.monotonic()
        self._last_line_seconds = 0.0
        self._step: str | None = None
        console = rich.console.Console(stderr=True)
        self._bar = _make_bar(console, unit) if is_live(console) else None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> ProgressDisplay:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show how far a step is.

        Args:
            step: What is being done.
            done: How much of it is done.
            total: How much there is, if that is known.
        """
        is_new = step != self._step
        self._step = step
        if self._bar:
            self._show(self._bar, is_new, done, total)
        else:
            self._print(is_new, done, total)

    def _show(
        self, bar: rich.progress.Progress, is_new: bool, done: int, total: int | None
    ) -> None:
        if is_new or self._task is None:
            if self._task is not None:
                bar.remove_task(self._task)
            self._task = bar.add_task(self._step or "", total=total)
        bar.update(self._task, completed=done, total=total)

    def _print(self, is_new: bool, done: int, total: int | None) -> None:
        seconds = time.monotonic() - self._start
        is_due = seconds - self._last_line_seconds >= _LINE_SECONDS
        if seconds < _QUIET_SECONDS or not (is_new or is_due):
            return
        self._last_line_seconds = seconds
        share = f" of {total:,}" if total else ""
        amount = f": {done:,}{share} {self.unit}" if done else ""
        click.echo(f"[{seconds:.0f} s] {self._step}{amount}", err=True)


def _make_bar(console: rich.console.Console, unit: str) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.completed:,} " + unit),
        rich.progress.TimeElapsedColumn(),
        console=console,
        transient=True,
    )
