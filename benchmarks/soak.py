"""Train for half an hour while a process is killed every 30 seconds: is memory flat, is the loss?

    python benchmarks/soak.py RUN OUT --minutes 30 --every 30

RUN is preprocessed; OUT gets copies of it. Workers and the validator are killed in turn. Memory
is the proportional set size of all processes of the run. Then the same is trained without a kill,
as far as the first came, and the cross-entropies of the validations of both are compared.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from nmtasync.run_directory import RunDirectory

SETTINGS = (
    *("--devices=cpu,cpu", "--validate-every=200", "--set=training.patience=none"),
    *("--set=model.preset=tiny", "--set=training.precision=fp32"),
)
SAMPLE_SECONDS = 5.0


def group(pid: int) -> dict[int, float]:
    """The processes of a session, and the MiB of each."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                if int(fields[3]) == pid:
                    lines = (entry / "smaps_rollup").read_text().splitlines()
                    pss = next(line for line in lines if line.startswith("Pss:"))
                    found[int(entry.name)] = int(pss.split()[1]) / 1024
    return found


def children_of_server(pid: int) -> list[int]:
    """The validator and the workers: children of the process that they are forked from."""
    parents = {}
    for child in group(pid):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()
            parents[child] = int(stat[1])
    return sorted(child for child, parent in parents.items() if parents.get(parent) == pid)


def start(run: RunDirectory, *options: str) -> subprocess.Popen[bytes]:
    """Start training."""
    command = [sys.executable, "-m", "cli", "train", str(run.root), *SETTINGS, *options]
    with (run.root / "train.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def validations(run: RunDirectory) -> dict[int, float]:
    """The cross-entropies by updates."""
    lines = (run.logs / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["event"] == "valid"]
    return {entry["updates"]: entry["cross_entropy"] for entry in entries}


def disturb(run: RunDirectory, minutes: float, every: float) -> tuple[list[list[float]], int]:
    """Train and kill; return samples of seconds and MiB (main process, all), and the kills."""
    process, begun = start(run), time.monotonic()
    samples, kills, turns = [], 0, itertools.count()
    while (now := time.monotonic() - begun) < 60 * minutes:
        sizes = group(process.pid)
        samples.append([now, sizes.get(process.pid, 0.0), sum(sizes.values())])
        if now > (kills + 1) * every and (victims := children_of_server(process.pid)):
            os.kill(victims[next(turns) % len(victims)], signal.SIGKILL)
            kills += 1
        if process.poll() is not None:
            raise click.ClickException(f"training ended: {(run.root / 'train.log').read_text()}")
        time.sleep(SAMPLE_SECONDS)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return samples, kills


def plot(samples: list[list[float]], path: Path) -> None:
    """Draw memory over time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3))
    minutes = [sample[0] / 60 for sample in samples]
    axes.plot(minutes, [sample[2] for sample in samples], label="all processes")
    axes.plot(minutes, [sample[1] for sample in samples], label="main process")
    axes.set_xlabel("minutes; a process is killed every 30 s")
    axes.set_ylabel("memory (PSS), MiB")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--every", default=30.0, show_default=True, help="Seconds between two kills.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw memory here.")
def main(corpus: Path, out: Path, minutes: float, every: float, picture: Path | None) -> None:
    """Compare a run whose processes are killed again and again with one that is left alone."""
    disturbed, undisturbed = (
        RunDirectory(shutil.copytree(corpus, out / name)) for name in ("disturbed", "undisturbed")
    )
    samples, kills = disturb(disturbed, minutes, every)
    (out / "samples.json").write_text(json.dumps(samples))
    if picture:
        plot(samples, picture)
    third = len(samples) // 3
    parts = (samples[third : 2 * third], samples[2 * third :])
    for name, column in (("main process", 1), ("all processes", 2)):
        means = [sum(sample[column] for sample in part) / len(part) for part in parts]
        click.echo(f"{name}: {means[0]:.0f} MiB in the second third, {means[1]:.0f} in the last")
    theirs = validations(disturbed)
    last = max(theirs)
    start(undisturbed, f"--max-updates={last}").wait()
    ours = validations(undisturbed)
    click.echo(f"{kills} kills in {minutes:g} minutes; {last} updates")
    for updates in sorted(theirs.keys() & ours.keys())[-5:]:
        click.echo(
            f"update {updates}: {theirs[updates]:.4f} killed, {ours[updates]:.4f} left alone"
        )


if __name__ == "__main__":
    main()
