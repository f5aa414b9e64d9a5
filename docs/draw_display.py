"""Draw the training display as it stood during a run, from what the run has logged.

python docs/draw_display.py RUN SECONDS > docs/display.svg

Only the times in front of validations are not exact: they are those of the log's line before.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from nmtasync.checkpoints.history import Validation
from nmtasync.config.load import read_toml, resolve
from nmtasync.run_directory import RunDirectory
from nmtasync.training.limits import share_done
from nmtasync.training.reporting.display import Display, figures_table

WIDTH = 100


def draw(run: RunDirectory, seconds: float) -> str:
    """Replay the log of a run through its display, and return the picture as SVG.

    Args:
        run: Whose RUN/logs/metrics.jsonl to read.
        seconds: What was logged later is left out.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor")
    display = Display(console)
    now, num_since_best, latest = 0.0, 0, None
    for line in (run.logs / "metrics.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["time_seconds"] > seconds:
            break
        now = max(now, event["time_seconds"])
        if event["event"] == "valid":
            num_since_best = 0 if event["best"] else num_since_best + 1
            fields = (event[name] for name in Validation.__dataclass_fields__)
            display.validation(Validation(*fields), event["best"], num_since_best, now)
        elif event["event"] == "train":
            latest = event
    if latest is None:
        raise SystemExit(f"{run.logs}/metrics.jsonl has no line of training until then")
    console.print(figures_table(latest, latest, _share_done(run, latest)))
    return console.export_svg(title=f"nmtasync train {run.root}")


def _share_done(run: RunDirectory, clocks: dict[str, Any]) -> float | None:
    limits = resolve(read_toml(run.config)).training
    return share_done(limits, clocks["time_seconds"], clocks["updates"], clocks["epoch"])


def main() -> None:
    """Read the command line and print the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("seconds", type=float, metavar="SECONDS", help="since training began")
    arguments = parser.parse_args()
    print(draw(RunDirectory(arguments.run), arguments.seconds))


if __name__ == "__main__":
    main()
