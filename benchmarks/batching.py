"""Mini-batches of a large corpus: what planning and padding cost, and how soon training begins.

Times per core are CPU time of the process, so that other load does not count; those of starts are
on the clock. The corpus is synthetic: lengths like those of text, tokens at random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nmtasync.data.batches import collate
from nmtasync.data.cursor import BatchCursor, DataPosition
from nmtasync.data.epochs import EpochPlans
from nmtasync.data.shards import SHARDS_FORMAT, SIDES, ParallelShards

VOCABULARY = 32_000


def write_corpus(directory: Path, num_pairs: int) -> None:
    """Write shards of so many pairs: some 25 pieces a side, at most 200, sides alike."""
    rng = np.random.default_rng(1)
    directory.mkdir(parents=True)
    description = {"format": SHARDS_FORMAT, "pairs": num_pairs}
    common = rng.lognormal(3.0, 0.6, num_pairs)
    for side in SIDES:
        lengths = np.clip(common * rng.lognormal(0.0, 0.15, num_pairs), 1, 200).astype("<i8")
        offsets = np.concatenate((np.zeros(1, "<i8"), lengths.cumsum()))
        offsets.tofile(directory / f"{side}.offsets")
        tokens = rng.integers(4, VOCABULARY, offsets[-1], dtype=np.uint16)
        tokens.tofile(directory / f"{side}.tokens")
        description[side] = {"dtype": "<u2", "tokens": int(offsets[-1])}
    (directory / "shards.json").write_text(json.dumps(description), "utf-8")


def measure_pace(corpus: ParallelShards, batch_tokens: int, num_pairs: int) -> None:
    """Print what a pair costs from the plan to padded tensors."""
    plans = EpochPlans(corpus, batch_tokens, seed=1)
    start = time.process_time()
    batches = plans.batches(0, 0)
    planning = (time.process_time() - start) / sum(map(len, batches))
    done, used = 0, 0
    start = time.process_time()
    while done < num_pairs and used < len(batches):
        collate(corpus, batches[used])
        done += len(batches[used])
        used += 1
    padding = (time.process_time() - start) / done
    print(
        f"{batch_tokens:7,} tokens: plan {1e6 * planning:.2f}, tensors {1e6 * padding:.2f} "
        f"microseconds a pair: {1 / (planning + padding):,.0f} pairs/s per core"
    )


def measure_starts(directory: Path, batch_tokens: int) -> None:
    """Print how long it takes from opened files to the tensors of the first batch."""
    corpus = ParallelShards.open(directory)
    last = EpochPlans(corpus, batch_tokens, seed=1).num_stretches(0) - 1

    def begin(position: DataPosition) -> BatchCursor:
        corpus = ParallelShards.open(directory)
        corpus.refuse_other_vocabulary(VOCABULARY, VOCABULARY)
        plans = EpochPlans(corpus, batch_tokens, seed=1)
        plans.mean_target_words()
        cursor = BatchCursor(plans, None)
        cursor.restore(position)
        collate(corpus, cursor.draw(0, 1)[0].sentences)
        cursor.finish(0)
        return cursor

    places = {"start": 0, "resume in the middle": last // 2}
    for name, stretch in places.items():
        position = DataPosition(position=stretch * 1_000_000 + min(stretch, 1) * 1000)
        print(f"{name}: {seconds_of(lambda p=position: begin(p)):.2f} s to the first batch")
    cursor = begin(DataPosition(position=last * 1_000_000))
    draws: list[float] = []
    while cursor.epoch == 0 or cursor.position < 10:
        draws.append(seconds_of(lambda: cursor.draw(0, 1)))
        cursor.finish(0)
        if len(draws) == 1:  # what follows takes training minutes
            cursor.plans.batches(1, 0)
    print(f"an epoch's turn: {1e3 * max(draws[1:]):.2f} ms is the longest of all draws about it")


def measure_memory(corpus: ParallelShards, batch_tokens: int) -> None:
    """Print the most memory that plans take while training goes through three stretches."""
    cursor = BatchCursor(EpochPlans(corpus, batch_tokens, seed=1), None)
    tracemalloc.start()
    while cursor.epoch == 0 and cursor.position < 3_000_000:
        cursor.draw(0, 1)
        cursor.finish(0)
    print(f"plans: {tracemalloc.get_traced_memory()[1] / 2**20:,.0f} MiB at most")
    tracemalloc.stop()


def seconds_of(call: Callable[[], object]) -> float:
    """Time a call on the clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[1_500, 4_000, 12_000])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "corpus"
        write_corpus(directory, arguments.pairs)
        corpus = ParallelShards.open(directory)
        for _ in range(arguments.repeat):
            for batch_tokens in arguments.batch_tokens:
                measure_pace(corpus, batch_tokens, num_pairs=arguments.pairs // 20)
            measure_starts(directory, arguments.batch_tokens[0])
        measure_memory(corpus, arguments.batch_tokens[0])


if __name__ == "__main__":
    main()
