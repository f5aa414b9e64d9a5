"""How much of the mini-batches of a preprocessed RUN is padding."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nmtasync.data.batches import plan_epoch
from nmtasync.data.shards import ParallelShards
from nmtasync.run_directory import RunDirectory


def main() -> None:
    """Print the share of each side, for several sizes of a mini-batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[1_500, 4_000, 12_000])
    arguments = parser.parse_args()
    if arguments.run is None:
        print("name a preprocessed RUN to measure its mini-batches")
        return
    corpus = ParallelShards.open(RunDirectory(arguments.run).data / "train")
    lengths = [np.asarray(side) + 1 for side in (corpus.source_lengths, corpus.target_lengths)]
    for batch_tokens in arguments.batch_tokens:
        plan = plan_epoch(
            corpus.source_lengths,
            corpus.target_lengths,
            batch_tokens=batch_tokens,
            seed=1,
            epoch=1,
        )
        padded = [sum(int(side[ids].max()) * len(ids) for ids in plan) for side in lengths]
        real = [int(side.sum()) for side in lengths]
        source, target = (1 - a / b for a, b in zip(real, padded, strict=True))
        print(
            f"{batch_tokens:7,} tokens: {len(plan):6,} batches, padding {source:.1%} of the "
            f"source, {target:.1%} of the target, {1 - sum(real) / sum(padded):.1%} of both"
        )


if __name__ == "__main__":
    main()
