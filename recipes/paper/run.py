"""Train the rows of the ablation, one directory each, and report.

Every row is one call of `nmtasync train` on OUT/ROW/seed-N, where its whole configuration lies. A
row that has ended is not trained again; one that was stopped goes on.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from nmtasync.config.load import (
    Settings,
    convert,
    find_option,
    merge,
    parse_assignment,
    read_toml,
    resolve,
    to_settings,
    to_toml,
)
from nmtasync.config.schema import Config
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.machine.cores import available_cores
from nmtasync.machine.signals import EXIT_CODES, on_stop_signal
from nmtasync.run_directory import RunDirectory, explain_write_errors, write_atomically
from recipes.paper.measure import measure
from recipes.paper.report import collect, run_directory, write_report
from recipes.paper.rows import Machine, Row, find_rows, read_costs, row_config

HERE = Path(__file__).parent
POLL_SECONDS = 0.1
MAY_CHANGE = {
    "training.max_epochs",
    "asynchronous.devices",
    "asynchronous.threads",
}
"""What a row that has begun can go on with another value of. Not the epochs where the learning rate
falls to 0 at their end."""


@dataclass(frozen=True)
class Task:
    """A row to be trained with a seed.

    Attributes:
        title: For people.
        run: Its directory.
        config: Its configuration.
    """

    title: str
    run: RunDirectory
    config: Config

    @property
    def log(self) -> Path:
        """What training prints."""
        return self.run.root / "train.log"

    def ended(self) -> bool:
        """Whether it has been trained to its end, with this configuration.

        Raises:
            UserError: It has been begun with another one, or on another corpus.
        """
        if not self.run.config.exists():
            return False
        before, now = to_settings(resolve(read_toml(self.run.config))), to_settings(self.config)
        changed = [name for name in now if now[name] != before[name]]
        decays = self.config.schedule.decay == "linear"
        may_change = MAY_CHANGE - {"training.max_epochs"} if decays else MAY_CHANGE
        if others := [name for name in changed if name not in may_change]:
            name = others[0]
            raise UserError(
                f"was begun with {name} = {before[name]!r}, not {now[name]!r}",
                where=self.run.root,
                remedy="choose another OUT, or delete it",
            )
        measured = measure(self.run)
        return not changed and measured is not None and measured.ended is not None

    def prepare(self, corpus: RunDirectory) -> None:
        """Make the directory, with links to the corpus, or check that it is this one's.

        Raises:
            UserError: It was begun on another corpus.
        """
        with explain_write_errors(self.run.root):
            self.run.root.mkdir(parents=True, exist_ok=True)
            if not self.run.manifest.exists():
                for there, here in ((corpus.data, self.run.data), (corpus.vocab, self.run.vocab)):
                    here.unlink(missing_ok=True)
                    here.symlink_to(there.resolve())
                shutil.copy(corpus.manifest, self.run.manifest)
        if self.run.read_manifest() != corpus.read_manifest():
            raise UserError(
                f"was begun on another corpus than {corpus.root}",
                where=self.run.root,
                remedy="choose another OUT, or delete it",
            )
        write_atomically(self.run.config, to_toml(self.config))


@dataclass
class Runner:
    """Runs tasks, several beside each other, until they have ended or somebody stops them.

    Attributes:
        command: How to call nmtasync.
        num_jobs: How many tasks run at a time.
        stopped: "interrupted" or "terminated", if a signal asked to stop.
        failed: Whether a task did.
    """

    command: Sequence[str]
    num_jobs: int
    stopped: str | None = None
    failed: bool = False
    _running: list[tuple[Task, subprocess.Popen[bytes]]] = field(default_factory=list)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all tasks, in this order."""
        waiting = deque(tasks)
        with on_stop_signal(self._stop):
            try:
                while (self._running or waiting) and self.stopped is None:
                    while waiting and len(self._running) < self.num_jobs:
                        self._start(waiting.popleft())
                    self._gather()
                for _, process in self._running:
                    process.terminate()  # once: it saves
                while self._running:
                    self._gather()
            finally:  # a second Ctrl-C does not wait
                for _, process in self._running:
                    process.kill()

    def _start(self, task: Task) -> None:
        command = [*self.command, "train", str(task.run.root)]
        click.echo(f"$ {shlex.join(command)} >> {shlex.quote(str(task.log))} 2>&1")
        with task.log.open("ab") as log:
            # in a session of its own, so that Ctrl-C comes to it through us, and once
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._running.append((task, process))

    def _stop(self, reason: str) -> None:
        self.stopped = reason

    def _gather(self) -> None:
        """Wait a moment, and tell of the tasks that have come to an end."""
        time.sleep(POLL_SECONDS)
        for task, process in list(self._running):
            code = process.poll()
            if code is None:
                continue
            self._running.remove((task, process))
            if code == 0:
                figures = measure(task.run)
                best = None if figures is None else figures.best_bleu
                bleu = "not validated" if best is None else f"best BLEU {best:.2f}"
                click.echo(f"{task.title}: ended; {bleu}")
            elif self.stopped is not None:
                click.echo(f"{task.title}: stopped; the same command goes on")
            else:
                self.failed = True
                click.echo(f"{task.title}: failed with exit code {code}, see {task.log}", err=True)


def plan(
    corpus: RunDirectory,
    out: Path,
    rows: Sequence[Row],
    seeds: Sequence[int],
    base: Settings,
    machine: Machine,
    epochs: int,
    rates: Mapping[str, float],
) -> list[Task]:
    """List all tasks, seed after seed, so that each seed is complete as early as it can be.

    Args:
        corpus: The preprocessed directory.
        out: Gets the directories of the tasks.
        rows: The rows to train.
        seeds: Those to train each row with.
        base: What all rows share.
        machine: The workers.
        epochs: How often each row reads the corpus.
        rates: Learning rates of single rows, by name, before they are scaled by words.

    Raises:
        UserError: A row's settings contradict each other.
    """
    return [
        Task(
            f"{row.title}, seed {seed}",
            run_directory(out, row, seed),
            row_config(corpus, base, row, machine, seed, epochs, rates.get(row.name)),
        )
        for seed in seeds
        for row in rows
    ]


@click.command()
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=HERE / "transformer.toml",
    help="What all rows share: transformer.toml (the default), rnn_small.toml, or a file of yours.",
)
@click.option(
    "--batch-tokens", type=click.IntRange(min=1), help="data.batch_tokens of the baseline."
)
@click.option(
    "--cost",
    type=click.Path(path_type=Path),
    help="Simulate the workers, with the cost model in [simulation] of this file.",
)
@click.option(
    "--scale-costs/--no-scale-costs",
    default=True,
    show_default=True,
    help="Let a mean mini-batch of the baseline take as long as one of the authors', of 1,920 "
    "target words: the cost model's seconds of a word are scaled; of simulated workers.",
)
@click.option("--workers", default=4, show_default=True, help="How many workers train each row.")
@click.option(
    "--devices",
    default="auto",
    show_default=True,
    help="One for each worker, as cuda:0,cuda:1; the one for all if they are simulated.",
)
@click.option("--seeds", default="1", show_default=True, help="Train each row with these: 1,2,3.")
@click.option("--epochs", default=6, show_default=True, help="How often a row reads the corpus.")
@click.option("--rows", "names", default="all", help="Names of rows, with commas between them.")
@click.option(
    "--rates", default="", help="Learning rates of single rows: baseline=1e-3,synchronous=5e-4."
)
@click.option("--jobs", default=1, show_default=True, help="How many rows run beside each other.")
@click.option("--set", "assignments", multiple=True, help="Set section.key=value for all rows.")
@click.option("--nmtasync", "command", default="nmtasync", help="How to call nmtasync.")
def main(
    run: Path,
    out: Path,
    model: Path,
    batch_tokens: int | None,
    cost: Path | None,
    scale_costs: bool,
    workers: int,
    devices: str,
    seeds: str,
    epochs: int,
    names: str,
    rates: str,
    jobs: int,
    assignments: tuple[str, ...],
    command: str,
) -> None:
    """Run the ablation on the preprocessed directory RUN; write OUT/report.md, .json and .png.

    OUT gets a directory for each row and seed. The same command goes on where it was stopped.
    """
    try:
        corpus = RunDirectory(run)
        costs, threads = read_costs(cost) if cost else None, _threads(jobs, simulated=bool(cost))
        machine = Machine(workers, devices, costs, threads, scale_costs)
        base = merge(read_toml(model), dict(parse_assignment(text) for text in assignments))
        if batch_tokens is not None:
            base["data.batch_tokens"] = batch_tokens
        rows, numbers = find_rows(names), _numbers(seeds)
        tasks = plan(corpus, out, rows, numbers, base, machine, epochs, parse_rates(rates))
        to_do = [task for task in tasks if not task.ended()]
        click.echo(f"{len(tasks)} runs, {len(tasks) - len(to_do)} of them ended before")
        for task in to_do:
            task.prepare(corpus)
        runner = Runner(shlex.split(command), jobs)
        runner.run(to_do)
        if runner.stopped is None or collect(out):
            click.echo("\n" + write_report(out))
    except NmtasyncError as error:
        click.echo(f"paper: error: {error}", err=True)
        sys.exit(error.exit_code)
    if runner.stopped is not None:
        sys.exit(EXIT_CODES[runner.stopped])
    sys.exit(1 if runner.failed else 0)


def _threads(jobs: int, *, simulated: bool) -> int | None:
    """CPU threads of each row: an equal share of the cores, where there are several at a time."""
    if jobs <= 1:
        return None
    if not simulated:
        raise UserError(
            "lets rows share the devices, which makes times meaningless",
            where="--jobs",
            remedy="use it with --cost, where time is virtual",
        )
    return max(1, available_cores() // jobs)


def parse_rates(text: str) -> dict[str, float]:
    """Read the learning rates of single rows: ROW=RATE with commas between them.

    Raises:
        UserError: There is no such row, or a rate is none.
    """
    rates: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, rate = part.partition("=")
        find_rows(name, "--rates")
        try:
            number = float(rate)
        except ValueError:
            raise UserError(f"{part!r} is not ROW=RATE", where="--rates") from None
        rates[name] = convert(
            find_option("schedule.learning_rate", where="--rates"), number, where="--rates"
        )
    return rates


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UserError(f"{seeds!r} is no list as 1,2,3", where="--seeds") from None


if __name__ == "__main__":
    main()
