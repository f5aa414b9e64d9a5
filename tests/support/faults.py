"""Run many faults, and count what survived: `python -m tests.support.faults --cases 200 --jobs 2`.

A case is drawn from its number. It trains the toy with two workers or ranks, one process of which
is killed or stopped at its moment; a main process that was killed is started again by the same
command. Survived means: each batch of each epoch was used once, and the final parameters are those
of the replay, or, of synchronous training, those of a run without a fault, to the bit.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import torch

from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from tests.support.fault_injection import MOMENTS, kind_of
from tests.support.processes import group_of
from tests.support.replays import log_of
from tests.support.repository import REPOSITORY
from tests.support.runs import final_state, train_toy, words_of_an_epoch
from tests.support.toy import TOY_FLAGS, write_toy_corpus

EPOCHS = 3
OPTIONS = {"data.batch_tokens": 60, "training.validate_every": 8, "training.max_epochs": EPOCHS}
OFTEN = ("compute", "batch", "push", "complete", "round", "update", "apply", "fetch")
"""Moments that come many times in each run."""
ONLY_LOCAL = ("push", "apply", "fetch")
SECONDS, ATTEMPTS = 240.0, 4


@dataclass(frozen=True)
class Case:
    """One fault."""

    seed: int
    driver: str
    process: str
    moment: str
    number: int
    signal: str

    @classmethod
    def draw(cls, seed: int) -> Case:
        rng = random.Random(seed)
        driver = rng.choice(["local", "local", "synchronous"])
        worker = "worker" if driver == "local" else "rank"
        process = rng.choice([f"{worker} 0", f"{worker} 1", "validator", "main"])
        kind = kind_of(process)
        moments = [m for m in MOMENTS[kind] if driver == "local" or m not in ONLY_LOCAL]
        moment = rng.choice(moments)
        number = rng.randint(1, 12 if moment in OFTEN else 2)
        stopped = process != "main" and rng.random() < 0.25
        phase = rng.choice(["before", "after"])
        name = "SIGSTOP" if stopped else "SIGKILL"
        return cls(seed, driver, process, f"{phase} {moment}", number, name)


@dataclass
class Outcome:
    """What became of a case."""

    case: Case
    fired: bool = False
    lost: str = ""
    attempts: int = 0
    processes_left: int = 0
    shared_memory_left: int = 0
    seconds: float = 0.0


@dataclass
class Stage:
    """Where cases run."""

    template: Path
    references: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def run(self, case: Case) -> Outcome:
        outcome, begun = Outcome(case), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fault-") as name:
            run = RunDirectory(shutil.copytree(self.template, Path(name) / "run"))
            fired = Path(name) / "fired"
            fault = f"{case.process}|{case.moment}|{case.number}|{case.signal}|{fired}"
            try:
                self._train(run, case, fault, outcome)
                self._check(run, case)
            except AssertionError as error:
                outcome.lost = str(error) or "assertion failed"
            outcome.fired = fired.exists()
        outcome.seconds = round(time.monotonic() - begun, 1)
        return outcome

    def _train(self, run: RunDirectory, case: Case, fault: str, outcome: Outcome) -> None:
        for _ in range(ATTEMPTS):
            outcome.attempts += 1
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.fault_command",
                    "train",
                    str(run.root),
                    *TOY_FLAGS,
                ]
                + [f"--set={name}={value}" for name, value in OPTIONS.items()]
                + ["--devices=cpu,cpu", f"--set=asynchronous.driver={case.driver}"]
                + ["--set=asynchronous.worker_timeout=6"],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            try:
                _, errors = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError("it stood still") from None
            outcome.processes_left += len(_left_of(process))
            ours = f"torch_{process.pid}_"
            outcome.shared_memory_left += len(list(Path("/dev/shm").glob(f"{ours}*")))
            if process.returncode == 0:
                return
            text = errors.decode("utf-8", "replace")
            assert process.returncode == -signal.SIGKILL, text[-1000:]
        raise AssertionError("it never came to its end")

    def _check(self, run: RunDirectory, case: Case) -> None:
        vectors, state = final_state(run)
        words = state["progress"]["target_words"]
        assert words == EPOCHS * words_of_an_epoch(run), f"{words} words were used"
        local = case.driver == "local"
        expected = self._replayed(run) if local else self._undisturbed(case.driver)
        for name in ("parameters", "average"):
            assert torch.equal(vectors[name], expected[name]), f"{name} differ"

    def _replayed(self, run: RunDirectory) -> dict[str, torch.Tensor]:
        other = RunDirectory(shutil.copytree(self.template, run.root.with_name("replay")))
        options = {name.replace(".", "__"): value for name, value in OPTIONS.items()}
        options |= {"training__validate_every": 10**6, "simulation__replay": str(log_of(run))}
        train_toy(other, asynchronous__driver="simulated", **options)
        return final_state(other)[0]

    def _undisturbed(self, driver: str) -> dict[str, torch.Tensor]:
        if driver not in self.references:
            with tempfile.TemporaryDirectory(prefix="fault-") as name:
                run = RunDirectory(shutil.copytree(self.template, Path(name) / "run"))
                options = {key.replace(".", "__"): value for key, value in OPTIONS.items()}
                options |= {"asynchronous__driver": driver, "asynchronous__devices": "cpu,cpu"}
                train_toy(run, **options)
                self.references[driver] = final_state(run)[0]
        return self.references[driver]


def _left_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Who is still there when those that end with the main process had time to."""
    for _ in range(200):
        if not (left := group_of(process)):
            return []
        time.sleep(0.05)
    return left


def make_template(folder: Path) -> Path:
    write_toy_corpus(folder)
    run = RunDirectory(folder / "run")
    pairs = [
        [PairPaths(folder / f"{part}.src", folder / f"{part}.tgt")] for part in ("train", "valid")
    ]
    options = DataConfig(
        vocab_size=46, byte_fallback=False, deduplicate=False, drop_protected=False
    )
    preprocess(run, *pairs, options)
    return run.root


@functools.cache
def _stage(template: Path) -> Stage:
    torch.set_num_threads(1)
    return Stage(template)


def _run(template: Path, seed: int) -> Outcome:
    return _stage(template).run(Case.draw(seed))


def run_cases(seeds: range, jobs: int, report: Path | None = None) -> list[Outcome]:
    """Run cases, some beside each other."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        template = make_template(Path(name))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context) as pool:
            for future in as_completed([pool.submit(_run, template, seed) for seed in seeds]):
                outcome = future.result()
                outcomes.append(outcome)
                state = f"LOST: {outcome.lost}" if outcome.lost else "survived"
                met = "" if outcome.fired else " (never came to that moment)"
                click.echo(f"{outcome.case}: {state}{met}, {outcome.seconds} s")
                if report:
                    report.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Sum cases up by process and signal."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome in outcomes:
        row = kind_of(outcome.case.process), outcome.case.signal
        counts[(*row, "cases")] += outcome.fired
        counts[(*row, "lost")] += bool(outcome.lost)
        counts[(*row, "left")] += outcome.processes_left + outcome.shared_memory_left
    rows = sorted({key[:2] for key in counts})
    lines = ["| process | signal | cases | lost | left |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        figures = " | ".join(str(counts[(*row, what)]) for what in ("cases", "lost", "left"))
        lines.append(f"| {' | '.join(row)} | {figures} |")
    met = sum(outcome.fired for outcome in outcomes)
    lines.append(f"{met} faults in {len(outcomes)} runs; the other runs had ended before")
    return "\n".join(lines)


@click.command()
@click.option("--cases", default=200, show_default=True)
@click.option("--first", default=1, show_default=True, help="The seed of the first one.")
@click.option("--jobs", default=2, show_default=True, help="How many run beside each other.")
@click.option("--report", type=click.Path(path_type=Path), help="Write all outcomes here, as JSON.")
def main(cases: int, first: int, jobs: int, report: Path | None) -> None:
    """Kill and stop processes at every kind of moment, and count what survives."""
    outcomes = run_cases(range(first, first + cases), jobs, report)
    click.echo(table(outcomes))
    sys.exit(any(o.lost or o.processes_left or o.shared_memory_left for o in outcomes))


if __name__ == "__main__":
    main()
