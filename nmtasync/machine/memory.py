"""What to do where memory does not suffice: halve the work, and do one half after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: a GPU's, or a CPU's."""
    # by its name: the command line asks without having imported PyTorch
    of_gpu = type(error).__name__ == "OutOfMemoryError"
    return of_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def compute_in_parts(
    number: int, compute: Callable[[range], ResultT], on_split: Callable[[], None]
) -> list[ResultT]:
    """Compute something of some items: of all at once, or in parts for which memory suffices.

    A part for which it does not is halved, down to single items.

    Args:
        number: How many items there are.
        compute: Computes a part, given by the places of its items.
        on_split: Is called before a part is halved: what was begun of it has to be taken back.

    Returns:
        What was computed of each part, in the order of the items.

    Raises:
        MemoryError, RuntimeError: Memory does not suffice for a single item.
    """
    todo, results = [range(number)], []
    while todo:
        part = todo.pop()
        try:
            results.append(compute(part))
            continue
        except (MemoryError, RuntimeError) as error:
            if len(part) < 2 or not is_out_of_memory(error):
                raise
        # only here, without the error, is what its frames held free again
        on_split()
        middle = (len(part) + 1) // 2
        todo += [part[middle:], part[:middle]]
    return results
