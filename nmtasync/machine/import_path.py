"""What processes that are started import: what this one would, whatever lies where it runs."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager

from nmtasync.machine.environment import changed_environment


def own_import_path() -> AbstractContextManager[None]:
    """Let processes that are started import what this one would, not what lies where it runs."""
    path = os.pathsep.join(filter(None, sys.path))
    return changed_environment({"PYTHONSAFEPATH": "1", "PYTHONPATH": path})
