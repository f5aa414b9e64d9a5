"""Libraries that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from nmtasync.errors import UserError


def require(module: str, package: str) -> Any:
    """Import a module of a library that may not be installed.

    Args:
        module: What to import.
        package: What to install for it.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"can't be imported: {error}",
            where=package,
            remedy="install it with `pip install 'nmtasync[export]'`",
        ) from None
