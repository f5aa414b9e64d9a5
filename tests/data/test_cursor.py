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


def plan(epoch: int) -> list[np.ndarray]:
    return [np.array([epoch, i]) for i in range(4 + epoch)]


EVERYTHING = Counter((e, i) for e in range(EPOCHS) for i in range(len(plan(e))))

actions = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["push", "push", "die", "resume"])), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(actions=actions, delay=st.integers(1, 3))
def test_each_batch_is_used_exactly_once(actions, delay):
    cursor = BatchCursor(plan, EPOCHS)
    used: Counter = Counter()
    windows: dict[int, list] = {}
    tail = [(worker, "push") for _ in range(30) for worker in (0, 1, 2)]
    for worker, action in actions + tail:
        if action == "resume":  # every worker's window is lost
            state = as_read_again(cursor)
            cursor = BatchCursor(plan, EPOCHS)
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
    assert used == EVERYTHING
    assert cursor.exhausted


def test_the_sentences_are_those_of_the_plan():
    cursor = BatchCursor(plan, None)
    drawn = [batch for _ in range(7) for batch in _draw_and_finish(cursor)]
    assert [(b.epoch, b.index) for b in drawn] == [(0, i) for i in range(4)] + [
        (1, i) for i in range(3)
    ]
    assert all(b.sentences.tolist() == [b.epoch, b.index] for b in drawn)
    assert cursor.epochs_done == 1 + 3 / 5


def as_read_again(cursor: BatchCursor) -> DataPosition:
    return typed(DataPosition, json.loads(json.dumps(asdict(cursor.state()))))


def _draw_and_finish(cursor: BatchCursor) -> list:
    window = cursor.draw(0, 1)
    cursor.finish(0)
    return window


@settings(max_examples=100, deadline=None)
@given(order=st.permutations(sorted(EVERYTHING)), delay=st.integers(1, 3), data=st.data())
def test_batches_can_be_drawn_in_any_order_and_none_twice(order, delay, data):
    """As a replay does; over a resume, with what was not drawn left for whoever draws."""
    cursor = BatchCursor(plan, EPOCHS)
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
    cursor = BatchCursor(plan, EPOCHS)
    cursor.restore(state)
    rest = [(b.epoch, b.index) for b in cursor.draw(1, 1000)]
    assert rest == sorted(order[end:])


@pytest.mark.parametrize("place", [(0, 4), (1, 5), (EPOCHS, 0)])
def test_a_batch_that_is_not_there_cannot_be_drawn(place):
    with pytest.raises(ValueError, match=r"has no batch|is not part"):
        BatchCursor(plan, EPOCHS).draw_places(0, [place])
