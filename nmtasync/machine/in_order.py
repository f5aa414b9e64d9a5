"""Work handed out as it comes, and its results in the same order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def results_in_order(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], most_pending: int
) -> Iterator[Result]:
    """Submit items, and yield their results in the order of the items.

    Args:
        submit: Hands an item out.
        items: May be endless.
        most_pending: So many may be under way or done while a result is waited for.

    Raises:
        Exception: What an item's work raises, after the results of those before it.
    """
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(submit(item))
        if len(pending) > most_pending:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
