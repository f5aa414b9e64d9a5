"""How fast preprocessing reads, cleans and segments, beside SentencePiece's own encoding.

    python benchmarks/preprocess_speed.py CORPUS OUT --pairs 1000000 --pairs 5000000

CORPUS is a folder with train.de.gz, train.en.gz, val.de.gz and val.en.gz, as of Multi30k. Corpora
are made of it: sentences drawn with repetition, about one word in ten exchanged for another of the
corpus; so some pairs are duplicates. Each is preprocessed with all defaults, in a process of its
own whose memory, that of all its children counted, is looked at all the time. Then one process
encodes the same lines with SentencePiece alone, on one thread. The ratio is of lines per second,
without the time of learning the vocabulary.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

SIDES = ("de", "en")
CHANGED = 0.1
ENCODED_LINES = 100_000

ENCODE = """
import sys, time, sentencepiece
processor = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
lines = seconds = 0
for path in sys.argv[3:]:
    with open(path, encoding="utf-8", newline="\\n") as file:
        while part := [line.rstrip("\\n") for _, line in zip(range(int(sys.argv[2])), file)]:
            start = time.perf_counter()
            processor.encode(part, out_type=int, num_threads=1)
            seconds += time.perf_counter() - start
            lines += len(part)
print(lines / seconds)
"""


def make(corpus: Path, out: Path, num_pairs: int) -> list[Path]:
    """Write a corpus of so many pairs, if it is not there."""
    paths = [out / f"{num_pairs}.{side}" for side in SIDES]
    if all(path.exists() for path in paths):
        return paths
    sides = []
    for side in SIDES:
        with gzip.open(corpus / f"train.{side}.gz", "rt", encoding="utf-8", newline="\n") as file:
            sides.append([line.rstrip("\n").split(" ") for line in file])
    words = [[word for line in lines for word in line] for lines in sides]
    rng = random.Random(num_pairs)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for _ in range(num_pairs):
            number = rng.randrange(len(sides[0]))
            for lines, others, file in zip(sides, words, files, strict=True):
                line = list(lines[number])
                for _ in range(round(rng.random() * 2 * CHANGED * len(line))):
                    line[rng.randrange(len(line))] = others[rng.randrange(len(others))]
                file.write(" ".join(line) + "\n")
    return paths


def memory_of(session: int) -> float:
    """The proportional set sizes of all processes of a session together, in MiB."""
    total = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, StopIteration, ValueError):
            if not entry.name.isdigit():
                continue
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[3]) == session:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def watched(command: list[str], every: float = 0.5) -> tuple[bytes, float, float]:
    """Run a command; return what it prints, its seconds and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    peak, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(every):
            peak = max(peak, memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise click.ClickException(errors.decode())
    return output, seconds, peak


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--pairs", "sizes", multiple=True, type=int, default=(1_000_000, 5_000_000))
@click.option("--set", "settings", multiple=True, help="As of `nmtasync preprocess`.")
def main(corpus: Path, out: Path, sizes: tuple[int, ...], settings: tuple[str, ...]) -> None:
    """Print a row for each size."""
    out.mkdir(parents=True, exist_ok=True)
    say: Callable[[str], None] = click.echo
    say("| pairs | kept | seconds | of them learning | pairs/s without | ratio | peak MiB |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        paths = make(corpus, out, size)
        run = out / f"run-{size}"
        valid = [str(corpus / f"val.{side}.gz") for side in SIDES]
        options = [word for setting in settings for word in ("--set", setting)]
        output, _, peak = watched(
            [
                *(sys.executable, "-m", "cli", "preprocess", str(run), "--overwrite", "--json"),
                *("--train", *map(str, paths), "--valid", *valid, *options),
                *("--source-language", "de", "--target-language", "en"),
            ]
        )
        report = json.loads(output)
        learning = report["seconds_by_step"]["vocabulary"]
        speed = size / (report["seconds"] - learning)
        encode = [sys.executable, "-c", ENCODE, str(run / "vocab/joint.model"), str(ENCODED_LINES)]
        reference = float(watched([*encode, *map(str, paths)])[0])
        say(
            f"| {size:,} | {report['train']['num_kept']:,} | {report['seconds']:.1f} | "
            f"{learning:.1f} | {speed:,.0f} | {2 * speed / reference:.2f} | {peak:,.0f} |"
        )


if __name__ == "__main__":
    main()
