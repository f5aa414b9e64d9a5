"""Which worker computes which batch: one cursor over deterministic epochs, each batch used once.

The windows of a worker that died are drawn again; those under way at a checkpoint count as not
drawn.

The batches of an epoch are planned stretch by stretch (`nmtasync/data/epochs.py`). The index of a
batch is `stretch_pairs` times the stretch plus its place there, so that any batch is found without
those before it. An epoch of one stretch has the indices 0, 1, 2 ….
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_SKIPPED = 1 << 16
"""Batches that others may have under way while one is drawn out of turn; windows hold far fewer."""


class Plans(Protocol):
    """The batches of all epochs; see `EpochPlans`, which is one.

    Attributes:
        stretch_pairs: By what indices count stretches: no stretch has more batches.
    """

    stretch_pairs: int

    def num_stretches(self, epoch: int) -> int:
        """Count the stretches of an epoch."""
        ...

    def batches(self, epoch: int, stretch: int) -> Sequence[npt.NDArray[np.int64]]:
        """Return the batches of a stretch."""
        ...

    def prepare(self, epoch: int, stretch: int) -> None:
        """Expect a stretch to be the next one."""
        ...

    def share_done(self, epoch: int, stretch: int, share: float) -> float:
        """Return which share of an epoch is over when a share of one of its stretches is."""
        ...


@dataclass(frozen=True)
class AssignedBatch:
    """A mini-batch in the order of training.

    Attributes:
        epoch: From 0 on.
        index: Its place in the epoch: stretch and place there in one number.
        sentences: The numbers of its sentence pairs in the training corpus.
        progress: The share of the training that was over when it was drawn, from 0 to 1.
    """

    epoch: int
    index: int
    sentences: npt.NDArray[np.int64]
    progress: float = 0.0


@dataclass(frozen=True)
class DataPosition:
    """How far training has come in its epochs.

    Attributes:
        epoch: From 0 on.
        position: The index of the epoch's next batch.
        returned: Batches of before that are to be drawn again, by epoch and index.
        stretch_pairs: By what the indices count stretches; 0 where earlier versions, which planned
            epochs as a whole, wrote it.
    """

    epoch: int = 0
    position: int = 0
    returned: tuple[tuple[int, int], ...] = ()
    stretch_pairs: int = 0


class BatchCursor:
    """Hands out the batches of epoch after epoch.

    A worker holds a window of batches until it has pushed their gradient, one in each of its
    slots. The windows of a worker that died are given back, and are the next to be drawn.

    Args:
        plans: The batches, always the same for the same epoch.
        max_epochs: Where to end, or None.
    """

    def __init__(self, plans: Plans, max_epochs: int | None) -> None:
        self.plans = plans
        self._entered: tuple[int, int] | None = None
        self.max_epochs = max_epochs
        self.epoch = 0
        self.position = 0
        self._returned: list[tuple[int, int]] = []
        self._held: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def draw(
        self, worker: int, num_batches: int, slot: int = 0, progress: float = 0.0
    ) -> list[AssignedBatch]:
        """Draw a worker's next window; it is shorter, or empty, where the epochs end."""
        assert not self._held.get((worker, slot)), "a slot holds one window at a time"
        places: list[tuple[int, int]] = []
        while len(places) < num_batches and (place := self._next()) is not None:
            places.append(place)
        self._held[worker, slot] = places
        return [AssignedBatch(*place, self._sentences(*place), progress) for place in places]

    def draw_places(
        self,
        worker: int,
        places: Sequence[tuple[int, int]],
        slot: int = 0,
        progress: float = 0.0,
    ) -> list[AssignedBatch]:
        """Draw just these batches for a worker, by epoch and index; others wait in their place.

        Raises:
            ValueError: There is no such batch, or it has been drawn already.
        """
        if self._held.get((worker, slot)):
            raise ValueError("a slot holds one window at a time")
        for place in places:
            if place in self._returned:
                self._returned.remove(place)
            else:
                self._advance_to(place)
        self._held[worker, slot] = list(places)
        return [AssignedBatch(*place, self._sentences(*place), progress) for place in places]

    def held(self, worker: int, slot: int = 0) -> tuple[tuple[int, int], ...]:
        """The batches that a worker has drawn and not pushed yet, by epoch and index."""
        return tuple(self._held.get((worker, slot), ()))

    def finish(self, worker: int, slot: int = 0) -> None:
        """Mark the worker's window as pushed."""
        self._held[worker, slot] = []

    def give_back(self, worker: int) -> None:
        """Take the windows of a worker that died before it pushed them."""
        lost = [place for (holder, _), w in self._held.items() if holder == worker for place in w]
        self._held = {key: window for key, window in self._held.items() if key[0] != worker}
        self._returned = sorted(self._returned + lost)

    @property
    def exhausted(self) -> bool:
        """Whether every batch of every epoch has been drawn and pushed."""
        waiting = self._returned or any(self._held.values())
        return not waiting and self.max_epochs is not None and self.epoch >= self.max_epochs

    @property
    def epochs_done(self) -> float:
        """How far training has come, in epochs, the windows under way counted in."""
        stretch, place = divmod(self.position, self.plans.stretch_pairs)
        share = place / len(self.plans.batches(self.epoch, stretch)) if place else 0.0
        return self.epoch + self.plans.share_done(self.epoch, stretch, share)

    def _next(self) -> tuple[int, int] | None:
        return self._returned.pop(0) if self._returned else self._advance()

    def _advance_to(self, place: tuple[int, int]) -> None:
        epoch, index = place
        if place < (self.epoch, self.position):
            raise ValueError(f"batch {index} of epoch {epoch} has been drawn before")
        if epoch > self.epoch + MAX_SKIPPED:
            raise ValueError(f"epoch {epoch} comes long before its turn")
        if not self._exists(epoch, index):
            raise ValueError(f"epoch {epoch} has no batch {index}")
        while (skipped := self._advance()) != place:
            if skipped is None:
                raise ValueError(f"epoch {epoch} is not part of the training")
            if len(self._returned) >= MAX_SKIPPED:
                raise ValueError(f"batch {index} of epoch {epoch} comes long before its turn")
            self._returned.append(skipped)

    def _advance(self) -> tuple[int, int] | None:
        if self.max_epochs is not None and self.epoch >= self.max_epochs:
            return None
        place = (self.epoch, self.position)
        stretch, inner = divmod(self.position, self.plans.stretch_pairs)
        following = self.epoch, stretch + 1
        if following[1] >= self.plans.num_stretches(self.epoch):
            following = self.epoch + 1, 0
        self._enter((self.epoch, stretch), following)
        self.position += 1
        if inner + 1 >= len(self.plans.batches(self.epoch, stretch)):
            self.epoch, self.position = following[0], following[1] * self.plans.stretch_pairs
        return place

    def _enter(self, stretch: tuple[int, int], following: tuple[int, int]) -> None:
        """Have the stretch planned that follows the one of which batches are drawn now."""
        if self._entered != stretch:
            self._entered = stretch
            if self.max_epochs is None or following[0] < self.max_epochs:
                self.plans.batches(*stretch)  # it is needed first
                self.plans.prepare(*following)

    def _sentences(self, epoch: int, index: int) -> npt.NDArray[np.int64]:
        stretch, inner = divmod(index, self.plans.stretch_pairs)
        return self.plans.batches(epoch, stretch)[inner]

    def _exists(self, epoch: int, index: int) -> bool:
        stretch, inner = divmod(index, self.plans.stretch_pairs)
        if stretch >= self.plans.num_stretches(epoch):
            return False
        return inner < len(self.plans.batches(epoch, stretch))

    def state(self) -> DataPosition:
        """What a checkpoint keeps; windows that are held count as not drawn."""
        held = [place for window in self._held.values() for place in window]
        returned = tuple(sorted(self._returned + held))
        return DataPosition(self.epoch, self.position, returned, self.plans.stretch_pairs)

    def restore(self, position: DataPosition) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: There is no such place.
        """
        reached = (position.epoch, position.position)
        if len(set(position.returned)) < len(position.returned):
            raise ValueError("a batch is to be drawn twice")
        for epoch, index in (reached, *position.returned):
            if (epoch, index) > reached or not (index == 0 or self._exists(epoch, index)):
                raise ValueError(f"there is no batch {index} of epoch {epoch} to go on with")
        self.epoch, self.position = position.epoch, position.position
        self._returned = list(position.returned)
        self._held = {}
