"""The mini-batches of a corpus, epoch by epoch, planned stretch by stretch.

A stretch is what is sorted and cut together: a million pairs of the epoch, drawn from all of it.
Its batches come in random order, and the stretches one after the other; a corpus that fits into
one has the batches of its whole epoch shuffled. However large the corpus is, a few stretches are
held, and the next one is planned beside training. A stretch depends on seed, epoch and its number
alone, so that training can go on in any of them.

A pair of a corpus with weight w is used w times an epoch: floor(w) times, and what is left is the
share of the corpus that is used once more. Each epoch takes the next part of one random order of
the corpus, round and round: no epoch takes a pair of it twice, and after any number of epochs none
has been taken more than once oftener than another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction

import numpy as np

from nmtasync.config.schema import Config, get
from nmtasync.data.batches import Int64s, cut_batches
from nmtasync.data.permutation import Permutation
from nmtasync.data.shards import CorpusPart, ParallelShards

BATCH_OPTIONS = (
    "training.seed",
    "data.batch_tokens",
    "data.source_subword_alpha",
    "data.target_subword_alpha",
)
"""Options by which batches are cut, ordered and drawn."""

STRETCH_PAIRS = 1_000_000

_HELD_STRETCHES = 3
"""Besides the one that is being planned."""

Stretch = tuple[int, int]
"""An epoch, and the number of a stretch in it."""


class Mixture:
    """Which pairs each epoch uses, and how often.

    Args:
        corpora: Those of all pairs, in their order.
        seed: Of the run.
    """

    def __init__(self, corpora: Sequence[CorpusPart], seed: int) -> None:
        self._pairs = np.array([part.pairs for part in corpora], np.int64)
        self._starts = np.cumsum(self._pairs) - self._pairs
        weights = [Fraction(str(part.weight)) for part in corpora]
        self._whole = np.array([math.floor(weight) for weight in weights], np.int64)
        self._shares = [weight % 1 for weight in weights]
        self._as_they_are = all(weight == 1 for weight in weights)
        self._orders = {
            number: Permutation(part.pairs, [seed, number, 1])
            for number, part in enumerate(corpora)
            if self._shares[number] and part.pairs
        }

    def size(self, epoch: int) -> int:
        """Count the pairs of an epoch, each as often as it is used."""
        return int(self._sizes(epoch).sum())

    def _sizes(self, epoch: int) -> Int64s:
        sizes = self._whole * self._pairs
        for number in self._orders:
            sizes[number] += self._taken(number, epoch + 1) - self._taken(number, epoch)
        return sizes

    def _taken(self, number: int, epoch: int) -> int:
        """How many pairs the share of a corpus has come to before an epoch."""
        return math.floor(epoch * self._shares[number] * int(self._pairs[number]))

    def pairs(self, epoch: int, places: Int64s) -> Int64s:
        """Return which pairs are at some places of an epoch, in which all corpora are in line."""
        if self._as_they_are:
            return places
        sizes = self._sizes(epoch)
        ends = np.cumsum(sizes)
        owners = np.searchsorted(ends, places, side="right")
        inner = places - (ends - sizes)[owners]
        pairs = inner % self._pairs[owners]
        for number, order in self._orders.items():
            whole = int(self._whole[number] * self._pairs[number])
            once_more = np.flatnonzero((owners == number) & (inner >= whole))
            taken = self._taken(number, epoch) % order.size
            pairs[once_more] = order((inner[once_more] - whole + taken) % order.size)
        return pairs + self._starts[owners]


class EpochPlans:
    """The batches of all epochs of a corpus.

    Args:
        corpus: The training corpus.
        batch_tokens: As of `cut_batches`.
        seed: Of the run.

    Attributes:
        stretch_pairs: The most pairs, and so batches, of a stretch.
    """

    def __init__(self, corpus: ParallelShards, batch_tokens: int, seed: int) -> None:
        self.corpus = corpus
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.stretch_pairs = STRETCH_PAIRS
        self.mixture = Mixture(corpus.corpora, seed)
        self._held: dict[Stretch, list[Int64s]] = {}
        self._planner = ThreadPoolExecutor(1, "plan")
        self._planned: tuple[Stretch, Future[list[Int64s]]] | None = None

    @classmethod
    def of(cls, corpus: ParallelShards, config: Config) -> EpochPlans:
        """Plan a corpus as a configuration has it."""
        return cls(corpus, config.data.tokens_per_batch, config.training.seed)

    def num_stretches(self, epoch: int) -> int:
        """Count the stretches of an epoch: one at least."""
        return max(1, -(-self.mixture.size(epoch) // self.stretch_pairs))

    def batches(self, epoch: int, stretch: int) -> list[Int64s]:
        """Return the batches of a stretch: the pairs of each."""
        key = epoch, stretch
        if key in self._held:
            batches = self._held.pop(key)
        elif self._planned is not None and self._planned[0] == key:
            batches = self._planned[1].result()
            self._planned = None
        else:
            batches = self._plan(epoch, stretch)
        self._held[key] = batches  # the last is the one that was asked for last
        while len(self._held) > _HELD_STRETCHES:
            del self._held[next(iter(self._held))]
        return batches

    def prepare(self, epoch: int, stretch: int) -> None:
        """Plan a stretch beside whatever comes, since it will be the next one."""
        key = epoch, stretch
        if key not in self._held and (self._planned is None or self._planned[0] != key):
            self._planned = key, self._planner.submit(self._plan, epoch, stretch)

    def _plan(self, epoch: int, stretch: int) -> list[Int64s]:
        size, start = self.mixture.size(epoch), stretch * self.stretch_pairs
        if size <= self.stretch_pairs:
            rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            places = rng.permutation(size)
        else:
            rng = np.random.Generator(np.random.PCG64([self.seed, epoch, stretch]))
            numbers = np.arange(start, min(start + self.stretch_pairs, size))
            places = Permutation(size, [self.seed, epoch])(numbers)
        ids = self.mixture.pairs(epoch, places)
        return cut_batches(ids, *self.corpus.lengths_of(ids), self.batch_tokens, rng)

    def share_done(self, epoch: int, stretch: int, share: float) -> float:
        """Return which share of an epoch is over when a share of one of its stretches is.

        Each stretch counts by its pairs. Both are from 0 to 1.
        """
        size = max(self.mixture.size(epoch), 1)
        start = stretch * self.stretch_pairs
        own = max(min(self.stretch_pairs, size - start), 0)
        return start / size + own / size * share

    def num_batches(self, epoch: int) -> int:
        """Estimate how many batches an epoch has: exactly, if it has a single stretch.

        All stretches are taken to have as many as the first.
        """
        first = self.batches(epoch, 0)
        size = self.mixture.size(epoch)
        return max(1, round(len(first) * max(1.0, size / self.stretch_pairs)))

    def mean_target_words(self) -> float:
        """Return the target words of a mean mini-batch of the first stretch, EOS counted."""
        batches = self.batches(0, 0)
        ids = np.concatenate(batches)
        return (int(self.corpus.lengths_of(ids)[1].sum()) + len(ids)) / len(batches)


def same_batches(one: Config, other: Config) -> bool:
    """Whether two configurations have the same batches of a corpus."""
    return all(get(one, name) == get(other, name) for name in BATCH_OPTIONS)


def plan_corpus(corpus: ParallelShards, config: Config, epoch: int = 0) -> list[Int64s]:
    """Return the batches of an epoch, or of its first stretch if it has several."""
    return EpochPlans.of(corpus, config).batches(epoch, 0)
