"""A function applied to items by several threads of this process, the results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from nmtasync.machine.in_order import results_in_order

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_items: int
) -> Iterator[Result]:
    """Apply a function to items, with as many threads as PyTorch has for one operation.

    These are divided among the items that are computed at the same time: threads that have items
    of their own never wait for each other, as those of one operation do at its end. PyTorch
    lets others run while it computes. Only a few results are held at a time.

    Args:
        function: What to apply; it must not change what others read.
        items: What to apply it to.
        num_items: How many there are.

    Raises:
        Exception: What the function raises, after the results of the items before.
    """
    num_threads = torch.get_num_threads()
    at_once = min(num_threads, num_items)
    if at_once <= 1:
        yield from map(function, items)
        return
    torch.set_num_threads(num_threads // at_once)
    executor = ThreadPoolExecutor(at_once)

    def submit(item: Item) -> Future[Result]:
        return executor.submit(function, item)

    try:
        yield from results_in_order(submit, items, 2 * at_once)
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)
