"""The batch cursor: each batch once, whoever draws, dies or is resumed."""

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtasync.data.cursor import BatchCursor, DataPosition
from nmtasync.untrusted import typed

EPOCHS = 3


class Layout:
    """Plans with so many batches in the stretches of each epoch."""

    stretch_pairs = 10

    def __init__(self, *epochs: tuple[int, ...]) -> None:
        self.epochs = epochs
        self.prepared: list[tuple[int, int]] = []

    def num_stretches(self, epoch: int) -> int:
        return len(self.epochs[epoch])

    def batches(self, epoch: int, stretch: int) -> list[np.ndarray]:
        first = stretch * self.stretch_pairs
        return [np.array([epoch, first + i]) for i in range(self.epochs[epoch][stretch])]

    def prepare(self, epoch: int, stretch: int) -> None:
        self.prepared.append((epoch, stretch))

    def share_done(self, epoch: int, stretch: int, share: float) -> float:
        return (stretch + share) / len(self.epochs[epoch])

    def places(self) -> list[tuple[int, int]]:
        stretches = ((e, s) for e in range(EPOCHS) for s in range(self.num_stretches(e)))
        return [(e, int(batch[1])) for e, s in stretches for batch in self.batches(e, s)]


LAYOUTS = [Layout((4,), (5,), (6,)), Layout((3, 1, 10), (2,), (1, 4))]

actions = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["push", "push", "die", "resume"])), max_size=60
)


@settings(max_examples=200)
@given(plans=st.sampled_from(LAYOUTS), actions=actions, delay=st.integers(1, 3))
def test_each_batch_is_used_exactly_once(plans, actions, delay):
    cursor = BatchCursor(plans, EPOCHS)
    used: Counter = Counter()
    windows: dict[int, list] = {}
    tail = [(worker, "push") for _ in range(30) for worker in (0, 1, 2)]
    for worker, action in actions + tail:
        if action == "resume":  # every worker's window is lost
            state = as_read_again(cursor)
            cursor = BatchCursor(plans, EPOCHS)
            cursor.restore(state)
            windows.clear()
            continue
        if worker not in windows:
            windows[worker] = cursor.draw(worker, delay)
            assert len(windows[worker]) <= delay
        elif action == "die":
            cursor.give_back(worker)
            del windows[worker]
        else:
            used.update((b.epoch, b.index) for b in windows.pop(worker))
            cursor.finish(worker)
    assert used == Counter(plans.places())
    assert cursor.exhausted


def test_the_sentences_are_those_of_the_plan():
    cursor = BatchCursor(LAYOUTS[0], None)
    drawn = [batch for _ in range(7) for batch in _draw_and_finish(cursor)]
    assert [(b.epoch, b.index) for b in drawn] == [(0, i) for i in range(4)] + [
        (1, i) for i in range(3)
    ]
    assert all(b.sentences.tolist() == [b.epoch, b.index] for b in drawn)
    assert cursor.epochs_done == 1 + 3 / 5


def test_stretches_follow_each_other_and_each_next_one_is_expected():
    plans = Layout((3, 1, 10), (2,), (1, 4), (1,))
    cursor, done = BatchCursor(plans, EPOCHS), []
    while batches := _draw_and_finish(cursor):
        assert all(b.sentences.tolist() == [b.epoch, b.index] for b in batches)
        done.append(cursor.epochs_done)
    assert plans.prepared == [(0, 1), (0, 2), (1, 0), (2, 0), (2, 1)], "none after the last"
    assert done[:5] == pytest.approx([1 / 9, 2 / 9, 1 / 3, 2 / 3, 2 / 3 + 1 / 30])
    assert done == sorted(done) and done[-1] == EPOCHS


def as_read_again(cursor: BatchCursor) -> DataPosition:
    return typed(DataPosition, json.loads(json.dumps(asdict(cursor.state()))))


def _draw_and_finish(cursor: BatchCursor) -> list:
    window = cursor.draw(0, 1)
    cursor.finish(0)
    return window


@settings(max_examples=100)
@given(plans=st.sampled_from(LAYOUTS), delay=st.integers(1, 3), data=st.data())
def test_batches_can_be_drawn_in_any_order_and_none_twice(plans, delay, data):
    """As a replay does; over a resume, with what was not drawn left for whoever draws."""
    order = data.draw(st.permutations(plans.places()))
    cursor = BatchCursor(plans, EPOCHS)
    end = data.draw(st.integers(0, len(order)))
    for start in range(0, end, delay):
        places = order[start : min(start + delay, end)]
        window = cursor.draw_places(0, places)
        assert [(b.epoch, b.index) for b in window] == list(cursor.held(0)) == places
        assert all(b.sentences.tolist() == [b.epoch, b.index] for b in window)
        cursor.finish(0)
        with pytest.raises(ValueError, match="drawn before"):
            cursor.draw_places(0, places)
    state = as_read_again(cursor)
    cursor = BatchCursor(plans, EPOCHS)
    cursor.restore(state)
    rest = [(b.epoch, b.index) for b in cursor.draw(1, 1000)]
    assert rest == sorted(order[end:])


@pytest.mark.parametrize("place", [(0, 3), (0, 11), (0, 30), (1, 2), (EPOCHS, 0)])
def test_a_batch_that_is_not_there_cannot_be_drawn(place):
    plans = Layout((3, 1, 10), (2,), (1, 4), (1,))
    with pytest.raises(ValueError, match=r"has no batch|is not part"):
        BatchCursor(plans, EPOCHS).draw_places(0, [place])


@pytest.mark.parametrize("place", [(0, 3), (0, 11), (0, 10**15), (1, 2)])
def test_a_place_that_is_not_there_is_nothing_to_go_on_from(place):
    with pytest.raises(ValueError, match="there is no batch"):
        BatchCursor(LAYOUTS[1], EPOCHS).restore(DataPosition(*place))
