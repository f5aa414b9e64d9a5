"""Functions applied to streams of items by several processes, the results in order."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

from nmtasync.errors import NmtasyncError
from nmtasync.machine.import_path import own_import_path
from nmtasync.machine.in_order import results_in_order
from nmtasync.machine.orphans import end_with_parent
from nmtasync.machine.signals import leave_signals_to_main, signals_kept_from_children

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW_ITEMS = 3
"""So many are done sooner here than by processes that must be started first."""

_functions: dict[str, Callable[[Any], Any]] = {}
"""The function that this process applies, if it was started for that, by the file it came in."""


class OrderedPool:
    """Processes that apply functions to streams of items. A context manager that ends them.

    They are started as soon as a stream has more than a few items, and stay for the next stream.

    Args:
        num_processes: How many there may be besides this one.
    """

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> OrderedPool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function to items, and yield the results in their order.

        Only a few items and results are held at a time, so the stream may be endless.

        Args:
            function: What to apply; each process gets a copy of it, once.
            items: What to apply it to.

        Raises:
            NmtasyncError: A process was ended from outside.
            Exception: What making an item raises, after the results of those before it.
        """
        errors: list[Exception] = []
        rest = _until_error(items, errors)
        first = list(itertools.islice(rest, FEW_ITEMS + 1))
        everything = itertools.chain(first, rest)
        if self._num_processes <= 1 or len(first) <= FEW_ITEMS:
            yield from map(function, everything)
        else:
            with tempfile.NamedTemporaryFile() as file:  # read once by each process
                file.write(ForkingPickler.dumps(function))
                file.flush()
                yield from self._map(file.name, everything)
        for error in errors:
            raise error

    def _map(self, function: str, items: Iterable[Any]) -> Iterator[Any]:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._num_processes, context, _begin)
        executor = self._executor

        def submit(item: Any) -> Future[Any]:
            with own_import_path(), signals_kept_from_children():
                return executor.submit(_apply, function, item)

        try:
            yield from results_in_order(submit, items, self._num_processes + 1)
        except BrokenProcessPool:
            raise NmtasyncError(
                "a process that worked on the text was ended from outside",
                remedy="run the same command again, which goes on; is there memory enough?",
            ) from None


def _until_error(items: Iterable[Item], errors: list[Exception]) -> Iterator[Item]:
    try:
        yield from items
    except Exception as error:
        errors.append(error)


def _begin() -> None:
    leave_signals_to_main()
    end_with_parent()


def _apply(function: str, item: Any) -> Any:
    if function not in _functions:
        _functions.clear()
        _functions[function] = ForkingPickler.loads(Path(function).read_bytes())
    return _functions[function](item)
