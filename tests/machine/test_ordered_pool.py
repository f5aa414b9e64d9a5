"""Streams over several processes: in order, by the same processes, and without any left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest

from nmtasync.errors import NmtasyncError
from nmtasync.machine.ordered_pool import FEW_ITEMS, OrderedPool


class Adds:
    """Adds, and counts how often this copy of it has been called."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def __call__(self, item: int) -> tuple[int, int, int]:
        self.calls += 1
        return item + self.number, os.getpid(), self.calls


def fail_at_seven(item: int) -> int:
    return 1 // (item - 7)


def kill_at_seven(item: int) -> int:
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.processes
def test_two_functions_are_applied_in_order_by_the_same_processes():
    with OrderedPool(2) as pool:
        first = list(pool.map(Adds(1), range(40)))
        second = list(pool.map(Adds(5), range(40)))
    assert [value for value, *_ in first] == [i + 1 for i in range(40)]
    assert [value for value, *_ in second] == [i + 5 for i in range(40)]
    own = os.getpid()
    pids = [{pid for _, pid, _ in results} for results in (first, second)]
    assert own not in pids[0] | pids[1]
    assert len(pids[0] | pids[1]) <= 2, "others were started for the second"
    for results in (first, second):
        calls = {pid: 0 for _, pid, _ in results}
        for _, pid, number in results:  # each keeps its copy from item to item, and no older one
            calls[pid] += 1
            assert number == calls[pid]
    assert not multiprocessing.active_children()


def test_a_few_items_need_no_process():
    with OrderedPool(2) as pool:
        assert {pid for _, pid, _ in pool.map(Adds(1), range(FEW_ITEMS))} == {os.getpid()}


@pytest.mark.processes
def test_items_that_can_not_be_made_come_after_the_results_of_those_before():
    def items() -> Iterator[int]:
        yield from range(20)
        raise ArithmeticError

    results = []
    with OrderedPool(2) as pool, pytest.raises(ArithmeticError):
        for result in pool.map(abs, items()):
            results.append(result)
    assert results == list(range(20))


@pytest.mark.processes
def test_errors_of_the_function_and_dead_processes_are_told_and_leave_none_behind():
    with OrderedPool(2) as pool:
        with pytest.raises(ZeroDivisionError):
            list(pool.map(fail_at_seven, range(40)))
        assert list(pool.map(abs, range(10))) == list(range(10)), "the others work on"
        with pytest.raises(NmtasyncError, match="ended from outside"):
            list(pool.map(kill_at_seven, range(40)))
    assert not multiprocessing.active_children()
