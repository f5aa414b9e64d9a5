"""A function applied to items by copies of this process, the results in order.

Python runs one thread of a process at a time, so what is made of many short operations needs
processes to use all cores. A copy has all that this process has, without reading it again, and
memory is shared as long as nobody writes to it.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from nmtasync.errors import NmtasyncError
from nmtasync.machine.in_order import results_in_order
from nmtasync.machine.orphans import end_with_parent
from nmtasync.machine.signals import leave_signals_to_main, signals_kept_from_children

Item = TypeVar("Item")
Result = TypeVar("Result")

_functions: list[Callable[[Any], Any]] = []
"""The one that this process applies, if it is a copy."""


def can_fork(num_items: int) -> bool:
    """Whether `map_in_forks` works here and there are items enough for it.

    A copy must not use several threads for an operation: those of the original are not copied.
    """
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return False
    return 1 < torch.get_num_threads() <= num_items


def map_in_forks(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply a function to items, with as many processes as PyTorch has threads for one operation.

    Only a few results are held at a time.

    Args:
        function: What to apply, on a CPU; what it changes, nobody else sees.
        items: What to apply it to.

    Raises:
        NmtasyncError: A process was ended from outside.
        Exception: What the function raises, after the results of the items before.
    """
    number = torch.get_num_threads()
    context = multiprocessing.get_context("fork")
    executor = ProcessPoolExecutor(number, context, _begin, (function,))

    def submit(item: Item) -> Future[Result]:
        # newer Pythons warn of copies without the threads of the original, which are not needed
        with signals_kept_from_children(), warnings.catch_warnings(action="ignore"):
            return executor.submit(_apply, item)

    try:
        yield from results_in_order(submit, items, 2 * number)
    except BrokenProcessPool:
        raise NmtasyncError(
            "a process that was translating was ended from outside",
            remedy="run the same command again, with fewer --threads if memory was short",
        ) from None
    except BaseException:  # a signal, too: what is being computed has no use any more
        for child in multiprocessing.active_children():
            if isinstance(child, context.Process):
                child.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any], Any]) -> None:
    leave_signals_to_main()
    end_with_parent()
    torch.set_num_threads(1)
    _functions[:] = [function]


def _apply(item: Any) -> Any:
    return _functions[0](item)
