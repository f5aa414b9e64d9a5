"""Items computed by copies of this process: their order, their number, errors, deaths."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.machine.forks import can_fork, map_in_forks

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux only"),
]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_copies_with_a_thread_each() -> None:
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # threads of an operation are there
    matrix = torch.randn(300, 300)
    seen = []  # what a copy adds stays in it

    def compute(item: int) -> tuple[int, int, int, torch.Tensor]:
        seen.append(item)
        return item, os.getpid(), torch.get_num_threads(), item * matrix @ matrix

    results = list(map_in_forks(compute, range(20)))
    items, processes, threads, products = zip(*results, strict=True)
    assert items == tuple(range(20))
    assert os.getpid() not in processes and len(set(processes)) <= 2
    assert set(threads) == {1} and torch.get_num_threads() == 2
    assert torch.allclose(products[7], 7 * matrix @ matrix, rtol=1e-4, atol=1e-3)
    assert not seen


def test_an_error_comes_whole_after_the_results_before_it() -> None:
    def compute(item: int) -> int:
        if item == 5:
            raise UserError("is bad", where="item", remedy="mend it")
        return item

    results = map_in_forks(compute, range(20))
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(UserError, match="item: is bad; mend it"):
        next(results)


def test_a_copy_that_is_killed_is_told_in_one_line() -> None:
    def compute(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(NmtasyncError, match="ended from outside; run the same command again"):
        list(map_in_forks(compute, range(20)))


def test_few_items_are_taken_ahead_and_none_is_left_behind() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_in_forks(lambda item: os.getpid(), items())
    copy = next(results)
    assert len(taken) < 10
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(copy, 0)


def test_copies_are_made_where_each_thread_has_an_item() -> None:
    assert can_fork(2) and can_fork(9)
    assert not can_fork(1), "a single item is better shared by all threads"
    torch.set_num_threads(1)
    assert not can_fork(9)


def _from_a_daemon() -> bool:
    torch.set_num_threads(2)
    return can_fork(9)


def test_what_may_have_no_children_makes_none() -> None:
    context = get_context("fork")
    with context.Pool(1) as pool:  # its processes are daemons
        assert pool.apply(_from_a_daemon) is False
    with ProcessPoolExecutor(1, context) as executor:  # the others are not
        assert executor.submit(_from_a_daemon).result() is True
