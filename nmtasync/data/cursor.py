"""Which worker computes which batch: one cursor over deterministic epochs, each batch used once.

The windows of a worker that died are drawn again; those under way at a checkpoint count as not
drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Plan = list[npt.NDArray[np.int64]]

MAX_SKIPPED = 1 << 16
"""Batches that others may have under way while one is drawn out of turn; windows hold far fewer."""


@dataclass(frozen=True)
class AssignedBatch:
    """A mini-batch in the order of training.

    Attributes:
        epoch: From 0 on.
        index: Its place in the epoch.
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
        position: The next batch of the epoch.
        returned: Batches of before that are to be drawn again, by epoch and index.
    """

    epoch: int = 0
    position: int = 0
    returned: tuple[tuple[int, int], ...] = ()


class BatchCursor:
    """Hands out the batches of epoch after epoch.

    A worker holds a window of batches until it has pushed their gradient, one in each of its
    slots. The windows of a worker that died are given back, and are the next to be drawn.

    Args:
        plan_epoch: Makes the list of batches of an epoch, always the same for the same epoch.
        max_epochs: Where to end, or None.
    """

    def __init__(self, plan_epoch: Callable[[int], Plan], max_epochs: int | None) -> None:
        self._plan_epoch = plan_epoch
        self._plans: dict[int, Plan] = {}
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
        return [AssignedBatch(e, i, self._plan(e)[i], progress) for e, i in places]

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
        return [AssignedBatch(e, i, self._plan(e)[i], progress) for e, i in places]

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
        return self.epoch + self.position / max(len(self._plan(self.epoch)), 1)

    def _next(self) -> tuple[int, int] | None:
        return self._returned.pop(0) if self._returned else self._advance()

    def _advance_to(self, place: tuple[int, int]) -> None:
        epoch, index = place
        if place < (self.epoch, self.position):
            raise ValueError(f"batch {index} of epoch {epoch} has been drawn before")
        if epoch > self.epoch + MAX_SKIPPED:
            raise ValueError(f"epoch {epoch} comes long before its turn")
        if index >= len(self._plan(epoch)):
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
        self.position += 1
        if self.position >= len(self._plan(self.epoch)):
            self.epoch, self.position = self.epoch + 1, 0
        return place

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            oldest = min([self.epoch, *(e for e, _ in self._returned)])
            self._plans = {e: plan for e, plan in self._plans.items() if e >= oldest}
            self._plans[epoch] = self._plan_epoch(epoch)
        return self._plans[epoch]

    def state(self) -> DataPosition:
        """What a checkpoint keeps; windows that are held count as not drawn."""
        held = [place for window in self._held.values() for place in window]
        return DataPosition(self.epoch, self.position, tuple(sorted(self._returned + held)))

    def restore(self, position: DataPosition) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: There is no such place.
        """
        reached = (position.epoch, position.position)
        if len(set(position.returned)) < len(position.returned):
            raise ValueError("a batch is to be drawn twice")
        for epoch, index in (reached, *position.returned):
            if (epoch, index) > reached or index >= max(len(self._plan(epoch)), 1):
                raise ValueError(f"there is no batch {index} of epoch {epoch} to go on with")
        self.epoch, self.position = position.epoch, position.position
        self._returned = list(position.returned)
        self._held = {}
