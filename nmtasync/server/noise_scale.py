"""The gradient noise scale: how many target words a gradient needs to be half signal, half noise.

With G the expected gradient per word and Σ the covariance of single words' gradients, the
gradient of w words has the expected squared norm |G|² + tr Σ / w. Their ratio B = tr Σ / |G|² is
the noise scale, in words, and to first order the critical number of words: training by updates
of w words needs 1 + w / B times the words that the smallest updates need, and 1 + B / w times the
updates that the largest need.

Two pushes that follow each other come from different batches and nearly the same parameters, so
the expected product of their gradients is |G|²; their own norms then give tr Σ. One pair of five
pushes is measured, which takes two passes over the vector for the ten or so of each push. The
norms of a small and a large batch, from which the source estimates both, say the same, but for
gradients that are mostly noise twenty times less exactly.

Source: McCandlish, Kaplan, Amodei and OpenAI Dota Team 2018, "An Empirical Model of Large-Batch
Training" (arXiv 1812.06162), section 2.2 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.server.messages import Push

PAIR_EVERY = 5
"""One pair is measured of so many pushes; no number of workers in a power of two divides it."""

MIN_PAIRS = 20
"""So many pairs must have been measured before their mean is believed."""

MAX_MEMORY = 400
"""The mean is over the last fifth of all pairs, but over no more than about so many."""


@dataclass
class GradientSums:
    """Decaying means over pairs of gradients [P], each summed over its target words.

    Attributes:
        product: Of two gradients.
        words_product: Of their words.
        square: Squared norm of a gradient.
        words: Its words.
        words_square: Squared.
        pairs: How many were measured.
    """

    product: float = 0.0
    words_product: float = 0.0
    square: float = 0.0
    words: float = 0.0
    words_square: float = 0.0
    pairs: int = 0

    def add(self, product: float, squares: Sequence[float], words: Sequence[int]) -> None:
        """Add the gradients of one moment.

        Args:
            product: The sum of the products of each two of them.
            squares: The squared norm of each.
            words: Of each.
        """
        number = len(words)
        words_square = sum(w * w for w in words)
        new = {
            "product": product,
            "words_product": (sum(words) ** 2 - words_square) / 2,
            "square": sum(squares) / number,
            "words": sum(words) / number,
            "words_square": words_square / number,
        }
        self.pairs += 1
        newest = max(1 / MAX_MEMORY, 5 / (self.pairs + 4))
        for name, value in new.items():
            old = getattr(self, name)
            setattr(self, name, old + newest * (value - old))

    @property
    def signal(self) -> float:
        """|G|²; at times not positive where noise prevails by far."""
        return self.product / self.words_product if self.words_product else 0.0

    def noise(self, signal: float) -> float:
        """tr Σ, if that is the signal."""
        return (self.square - signal * self.words_square) / self.words if self.words else 0.0


@dataclass
class NoiseScale:
    """Measures the noise scale of a run, from the pushes that a server takes.

    Attributes:
        room: [n] for each shard, for a push that waits for the next; none if pushes can't be
            compared, as they are no whole gradients.
        clip_norm: What workers clip their gradients to, per target word.
        pushes: How many have been seen.
        all: Of all workers.
        by_worker: Of the gradients of each.
    """

    room: list[Tensor]
    clip_norm: float | None
    pushes: int = 0
    all: GradientSums = field(default_factory=GradientSums)
    by_worker: dict[int, GradientSums] = field(default_factory=dict)
    _kept: tuple[Push, dict[int, Tensor]] | None = None

    @classmethod
    def of(cls, config: Config, shards: Sequence[Tensor], num_workers: int) -> NoiseScale:
        """Measure what a configuration trains with; `shards` are the parameters [n] of each."""
        options = config.asynchronous
        whole = options.local_push == "gradient" and options.drop_rate is None
        pushed = options.driver != "synchronous" or num_workers == 1  # ranks compare themselves
        room = [torch.empty_like(shard) for shard in shards] if whole and pushed else []
        return cls(room, config.optimizer.clip_norm)

    @property
    def words(self) -> float | None:
        """The noise scale in target words; None as long as it is not known."""
        return self._scale(self.all) if self.all.pairs >= MIN_PAIRS else None

    def words_by_worker(self) -> dict[int, float]:
        """The same by worker, for those whose pushes were measured often enough."""
        scales = {
            worker: self._scale(sums)
            for worker, sums in sorted(self.by_worker.items())
            if sums.pairs >= MIN_PAIRS
        }
        return {worker: scale for worker, scale in scales.items() if scale is not None}

    def _scale(self, sums: GradientSums) -> float | None:
        signal = self.all.signal
        noise = sums.noise(signal)
        return noise / signal if signal > 0 and noise > 0 else None

    def see(self, push: Push, pieces: Mapping[int, Tensor]) -> None:
        """See a push that is being applied; call it before anything changes the gradient.

        Args:
            push: Its header.
            pieces: [n] for each shard that it is for, where the shard lies.
        """
        if not self.room:
            return
        due = self.pushes % PAIR_EVERY == 0
        self.pushes += 1
        if self._kept is not None:
            self._compare(*self._kept, push, pieces)
        if due:
            for shard, piece in pieces.items():
                self.room[shard].copy_(piece)
            self._kept = push, {shard: self.room[shard] for shard in pieces}

    def _compare(
        self, before: Push, kept: dict[int, Tensor], push: Push, pieces: Mapping[int, Tensor]
    ) -> None:
        """Measure two pushes on the shards that both of them have; wait on if there is none."""
        both = kept.keys() & pieces.keys()
        if not both:
            return
        self._kept = None
        first, second = self._factor(before), self._factor(push)
        self.add(
            sum(float(kept[i].dot(pieces[i])) for i in both) / (first * second),
            [
                sum(float(gradient[i].dot(gradient[i])) for i in both) / factor**2
                for gradient, factor in ((kept, first), (pieces, second))
            ],
            [before.target_words, push.target_words],
            [before.worker, push.worker],
        )

    def _factor(self, push: Push) -> float:
        """What the worker has shrunk its gradient by."""
        if self.clip_norm is None or push.gradient_norm <= self.clip_norm:
            return 1.0
        return self.clip_norm / push.gradient_norm

    def add(
        self,
        product: float,
        squares: Sequence[float],
        words: Sequence[int],
        workers: Sequence[int],
    ) -> None:
        """Add the gradients of one moment, as of `GradientSums.add`, and whose they are."""
        self.all.add(product, squares, words)
        for worker, square, own in zip(workers, squares, words, strict=True):
            self.by_worker.setdefault(worker, GradientSums()).add(0.0, [square], [own])

    def forget_half(self) -> None:
        """Let go of a push that waits for the next one: no checkpoint keeps it."""
        self._kept = None

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        by_worker = {worker: asdict(sums) for worker, sums in self.by_worker.items()}
        return {"pushes": self.pushes, "all": asdict(self.all), "by_worker": by_worker}

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from what `to_json` returned."""
        self.pushes = content["pushes"]
        self.all = GradientSums(**content["all"])
        self.by_worker = {int(w): GradientSums(**s) for w, s in content["by_worker"].items()}
        self._kept = None
