"""Items computed by threads: their order, their number, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from nmtasync.machine.threads import map_in_threads


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_that_share_the_cores(three_threads: None) -> None:
    together = threading.Barrier(3, timeout=60)

    def compute(item: int) -> tuple[int, int]:
        if item < 3:
            together.wait()  # passes only if three are computed at the same time
        return item, torch.get_num_threads()

    assert list(map_in_threads(compute, range(20), 20)) == [(item, 1) for item in range(20)]
    assert torch.get_num_threads() == 3


def test_a_single_item_has_all_threads(three_threads: None) -> None:
    assert list(map_in_threads(lambda item: torch.get_num_threads(), [0], 1)) == [3]


def test_an_error_comes_after_the_results_before_it(three_threads: None) -> None:
    results = map_in_threads(lambda item: 1 // (5 - item), range(20), 20)
    for expected in (0, 0, 0, 0, 1):
        assert next(results) == expected
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert torch.get_num_threads() == 3


def test_few_items_are_taken_ahead(three_threads: None) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_in_threads(str, items(), 1000)
    assert next(results) == "0"
    assert len(taken) < 10
    results.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 3
