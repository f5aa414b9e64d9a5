"""The gradient noise scale: how many target words a gradient needs to be half signal, half noise.

With G the expected gradient per word and Σ the covariance of single words' gradients, the
gradient of w words has the expected squared norm |G|² + tr Σ / w. Their ratio B = tr Σ / |G|² is
the noise scale, in words, and to first order the critical number of words: training by updates
of w words needs 1 + w / B times the words that the smallest updates need, and 1 + B / w times the
updates that the largest need.

Two pushes that follow each other come from different batches and nearly the same parameters, so
the expected product of their gradients is |G|²; their own norms then give tr Σ. One pair of five
pushes is measured: a copy and three products, where the pushes themselves take some fifty passes
over the vector. The norms of a small and a large batch, from which the source estimates both, say
the same, but for gradients that are mostly noise twenty times less exactly.

Source: McCandlish, Kaplan, Amodei and OpenAI Dota Team 2018, "An Empirical Model of Large-Batch
Training" (arXiv 1812.06162), section 2.2 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

from torch import Tensor

from nmtasync.config.schema import Config
from nmtasync.optim.clipping import clip_factor
from nmtasync.server.messages import Push
from nmtasync.server.sharded_vector import ShardedState
from nmtasync.untrusted import Measured, typed

PAIR_EVERY = 5
"""One pair is measured of so many pushes; no number of workers in a power of two divides it."""

MIN_PAIRS = 20
"""So many pairs must have been measured before their mean is believed."""

_LEAST_FACTOR = 1e-100

Tensors = Sequence[Tensor] | Mapping[int, Tensor]

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

    product: Measured = 0.0
    words_product: Measured = 0.0
    square: Measured = 0.0
    words: Measured = 0.0
    words_square: Measured = 0.0
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


@dataclass(frozen=True)
class Waiting:
    """A push that waits for the next one; its gradient is in the room for it.

    Attributes:
        worker: Whose it is.
        target_words: Its words.
        factor: What the worker has shrunk its gradient by.
        shards: Which it has.
    """

    worker: int
    target_words: int
    factor: Annotated[float, _LEAST_FACTOR]
    shards: list[int]


@dataclass
class NoiseScale:
    """Measures the noise scale of a run, from the pushes that a server takes.

    Attributes:
        room: [n] for each shard, for a push that waits for the next; none if pushes can't be
            compared, as they are no whole gradients.
        room_is_kept: Whether checkpoints have that room; otherwise a pair that a checkpoint cuts
            is given up.
        clip_norm: What workers clip their gradients to, per target word.
        pushes: How many have been seen.
        all: Of all workers.
        by_worker: Of the gradients of each.
        waiting: The first push of a pair.
    """

    room: list[Tensor]
    room_is_kept: bool
    clip_norm: float | None
    pushes: int = 0
    all: GradientSums = field(default_factory=GradientSums)
    by_worker: dict[int, GradientSums] = field(default_factory=dict)
    waiting: Waiting | None = None

    @classmethod
    def of(cls, config: Config, num_workers: int, state: ShardedState, num_shards: int) -> Self:
        """Measure what a configuration trains with.

        Args:
            config: The experiment.
            num_workers: How many workers push.
            state: The server's vectors. The room is one of them, which checkpoints have, where
                windows depend on what is measured, so that a resumed run has the same ones.
            num_shards: Into how many shards they are cut.
        """
        options = config.asynchronous
        whole = options.local_push == "gradient" and options.drop_rate is None
        pushed = options.driver != "synchronous" or num_workers == 1  # ranks compare themselves
        kept = options.optimizer_delay == "auto"
        room: list[Tensor] = []
        if whole and pushed:
            room = [
                state.piece(shard, "noisy_gradient") if kept else state.room(shard)
                for shard in range(num_shards)
            ]
        return cls(room, kept, config.optimizer.clip_norm)

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
            pieces: [n] for each shard that it is for, where the shard lies; of one that is for
                none, nothing is seen.
        """
        if not self.room or not pieces:
            return
        due = self.pushes % PAIR_EVERY == 0
        self.pushes += 1
        if self.waiting is not None:
            self._compare(self.waiting, push, pieces)
        if due:
            for shard, piece in pieces.items():
                self.room[shard].copy_(piece)
            self.waiting = Waiting(
                push.worker, push.target_words, self._factor(push), sorted(pieces)
            )

    def _compare(self, before: Waiting, push: Push, pieces: Mapping[int, Tensor]) -> None:
        """Measure two pushes on the shards that both of them have; wait on if there is none."""
        both = [shard for shard in before.shards if shard in pieces]
        if not both:
            return
        self.waiting = None
        first, second = before.factor, self._factor(push)

        def product(left: Tensors, right: Tensors) -> float:
            return sum(float(left[shard].dot(right[shard])) for shard in both)

        self.add(
            product(self.room, pieces) / (first * second),
            [product(self.room, self.room) / first**2, product(pieces, pieces) / second**2],
            [before.target_words, push.target_words],
            [before.worker, push.worker],
        )

    def _factor(self, push: Push) -> float:
        """What the worker has shrunk its gradient by."""
        return clip_factor(push.gradient_norm, self.clip_norm)

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

    def give_up_cut_pair(self) -> None:
        """Let go of a push that waits for the next one, if a checkpoint made now will not have it.

        So a run that goes on from there does what this one does.
        """
        if not self.room_is_kept:
            self.waiting = None

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "pushes": self.pushes,
            "all": asdict(self.all),
            "by_worker": {worker: asdict(sums) for worker, sums in self.by_worker.items()},
            "waiting": None if self.waiting is None else asdict(self.waiting),
            "num_shards": len(self.room),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from what `to_json` returned, with the same number of shards or another."""
        self.pushes = typed(int, content["pushes"], "pushes")
        self.all = typed(GradientSums, content["all"], "all")
        self.by_worker = typed(dict[int, GradientSums], content["by_worker"], "by_worker")
        waiting = content["waiting"]
        alike = self.room_is_kept and content["num_shards"] == len(self.room)
        self.waiting = typed(Waiting, waiting, "waiting") if waiting and alike else None
