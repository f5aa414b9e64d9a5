"""Make a RUN of another program's network."""

from __future__ import annotations

from pathlib import Path

from nmtasync.interchange.huggingface_import import read_huggingface
from nmtasync.interchange.imported_run import Imported, refuse_taken, write_run


def import_network(root: Path, kind: str, path: Path) -> Imported:
    """Read another program's network and write it as a RUN.

    Args:
        root: The RUN, which must not be there yet.
        kind: The format.
        path: Where the network is.

    Returns:
        What was written.

    Raises:
        UserError: RUN is there, or the network is damaged or none that we have.
    """
    refuse_taken(root)
    match kind:
        case "huggingface":
            imported = read_huggingface(path)
        case unknown:
            raise AssertionError(unknown)
    write_run(root, imported)
    return imported
