"""A function applied to a stream of items by several processes, the results in order."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from nmtasync.errors import NmtasyncError
from nmtasync.machine.import_path import own_import_path
from nmtasync.machine.orphans import end_with_parent
from nmtasync.machine.signals import leave_signals_to_main, signals_kept_from_children

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW_ITEMS = 3
"""So many are done sooner here than by processes that must be started first."""

_functions: list[Callable[[Any], Any]] = []
"""What this process applies, if it has been started for that: one."""


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_processes: int
) -> Iterator[Result]:
    """Apply a function to items, in processes of their own if there are more than a few.

    Only a few items and results are held at a time, so the stream may be endless.

    Args:
        function: What to apply; each process gets a copy of it, once.
        items: What to apply it to.
        num_processes: How many processes there may be besides this one.

    Raises:
        NmtasyncError: A process was ended from outside.
        Exception: What making an item raises, after the results of those before it.
    """
    errors: list[Exception] = []
    rest = _until_error(items, errors)
    yield from _results(function, rest, num_processes)
    for error in errors:
        raise error


def _until_error(items: Iterable[Item], errors: list[Exception]) -> Iterator[Item]:
    try:
        yield from items
    except Exception as error:
        errors.append(error)


def _results(
    function: Callable[[Item], Result], rest: Iterator[Item], num_processes: int
) -> Iterator[Result]:
    first = list(itertools.islice(rest, FEW_ITEMS + 1))
    if num_processes <= 1 or len(first) <= FEW_ITEMS:
        yield from map(function, itertools.chain(first, rest))
        return
    executor = ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), _begin, (function,)
    )
    pending: deque[Future[Result]] = deque()
    try:
        for item in itertools.chain(first, rest):
            with own_import_path(), signals_kept_from_children():
                pending.append(executor.submit(_apply, item))
            if len(pending) > num_processes + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise NmtasyncError(
            "a process that worked on the text was ended from outside",
            remedy="run the same command again, which goes on; is there memory enough?",
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any], Any]) -> None:
    leave_signals_to_main()
    end_with_parent()
    _functions.append(function)


def _apply(item: Any) -> Any:
    return _functions[-1](item)
