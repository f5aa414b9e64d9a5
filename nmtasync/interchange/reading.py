"""What goes wrong with files of other programs, as an error of one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nmtasync.errors import UserError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into an error that names it.

    Raises:
        UserError: It can't be read, is damaged, or holds what this toolkit has no place for.
    """
    remedy = "copy it again, or take another model"
    try:
        yield
    except OSError as error:
        message = f"can't be read: {error.strerror or error}"
        raise UserError(message, where=path, remedy=remedy) from None
    except ValueError as error:
        raise UserError(f"can't be used: {error}", where=path, remedy=remedy) from None
