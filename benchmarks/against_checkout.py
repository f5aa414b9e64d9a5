"""The gradient of a batch, by this checkout's network and by another checkout's, side by side.

Both are loaded into one process, with the same parameters, and compute the same batches by turns,
as a worker does: forwards, loss and backwards, in 16 bits on a copy of the network. Loads of the
machine that come and go then slow both alike; the figure to read is the ratio of the medians.
Gradients are compared before anything is timed. The peak of the memory is measured in a process
of its own for each.

    git worktree add /tmp/old COMMIT
    python benchmarks/against_checkout.py /tmp/old --run RUN --set model.type=rnn
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

THIS = Path(__file__).parent.parent


class Checkout:
    """The network of one checkout, with the batches that it computes.

    Args:
        root: The checkout.
        run: A preprocessed RUN.
        settings: Options as `--set` takes them, KEY=VALUE.
        num_batches: How many batches to read.
    """

    def __init__(self, root: Path, run: Path, settings: list[str], num_batches: int) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "nmtasync"]:
            del sys.modules[name]
        sys.path.insert(0, str(root))
        self.modules: dict[str, Any] = {
            name: importlib.import_module(f"nmtasync.{name}")
            for name in (
                "config.load",
                "data.batches",
                "data.shards",
                "data.vocabulary",
                "models.build",
                "optim.flat",
                "worker.gradient",
            )
        }
        sys.path.remove(str(root))
        assert Path(self.modules["worker.gradient"].__file__).is_relative_to(root)
        load = self.modules["config.load"]
        config = load.resolve(dict(load.parse_assignment(text) for text in settings))
        shards = self.modules["data.shards"].ParallelShards.open(run / "data" / "train")
        batches = self.modules["data.batches"]
        plan = batches.plan_epoch(
            shards.source_lengths,
            shards.target_lengths,
            batch_tokens=config.data.batch_tokens,
            seed=1,
            epoch=1,
        )
        self.batches = [batches.collate(shards, ids) for ids in plan[:num_batches]]
        vocabularies = self.modules["data.vocabulary"].VocabularyPair.load(run / "vocab")
        sizes = vocabularies.source.size, vocabularies.target.size
        torch.manual_seed(1)
        model = self.modules["models.build"].build_model(config.model, *sizes)
        self.flat = self.modules["optim.flat"].FlatModel(model)
        self.function = self.modules["worker.gradient"].GradientFunction(self.flat, config.training)

    def seconds(self, index: int) -> float:
        """Compute the gradient of a batch; returns the processor time that it took."""
        self.flat.gradients.zero_()
        start = time.process_time()
        self.function.add(self.batches[index], seed=index)
        return time.process_time() - start


def peak_bytes(root: Path, run: Path, settings: list[str], num_batches: int) -> int:
    """Measure how much a process grows while it computes; to be called in a process of its own."""
    torch.set_num_threads(1)
    checkout = Checkout(root, run, settings, num_batches)
    before = _high_water_bytes()
    for index in range(num_batches):
        checkout.seconds(index)
    return _high_water_bytes() - before


def _high_water_bytes() -> int:
    """The most memory that this process has had; `ru_maxrss` would count its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    """Compare the gradients, time both checkouts by turns, and print two rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("others", type=Path, nargs="+", help="other checkouts")
    parser.add_argument("--run", type=Path, required=True, help="preprocessed data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    same = (arguments.run, arguments.set, arguments.batches)
    roots = {"this": THIS, **{path.name: path.resolve() for path in arguments.others}}
    checkouts = {name: Checkout(root, *same) for name, root in roots.items()}
    for checkout in checkouts.values():  # also what is slow at first
        checkout.seconds(0)
    this = checkouts["this"].flat.gradients
    differences = {
        name: float((checkout.flat.gradients - this).norm() / this.norm())
        for name, checkout in checkouts.items()
    }

    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(arguments.repeats):
        totals = dict.fromkeys(checkouts, 0.0)
        for index in range(arguments.batches):
            for name, checkout in checkouts.items():
                totals[name] += checkout.seconds(index)
        for name, total in totals.items():
            seconds[name].append(total)
    words = sum(batch.target_words for batch in checkouts["this"].batches)
    spawn = multiprocessing.get_context("spawn")
    baseline = statistics.median(seconds["this"])
    for name, values in seconds.items():
        with spawn.Pool(1) as pool:
            peak = pool.apply(peak_bytes, (roots[name], *same))
        middle, low, high = statistics.median(values), min(values), max(values)
        print(
            f"{name:12} {1000 * middle:7,.0f} ms ({1000 * low:,.0f} to {1000 * high:,.0f}), "
            f"{middle / baseline:.2f} times that of this; {words:,} target words; "
            f"grows by {peak / 2**20:,.0f} MiB; gradients differ by {differences[name]:.0e}"
        )


if __name__ == "__main__":
    main()
