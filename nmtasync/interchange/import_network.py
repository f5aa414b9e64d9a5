"""Make a RUN of another program's network."""

from __future__ import annotations

from pathlib import Path

from nmtasync.errors import UserError
from nmtasync.interchange.huggingface_import import read_huggingface
from nmtasync.interchange.imported_run import Imported, write_run
from nmtasync.interchange.marian_import import read_marian
from nmtasync.run_directory import refuse_filled


def import_network(
    root: Path, kind: str, path: Path, vocabularies: tuple[Path, Path] | None = None
) -> Imported:
    """Read another program's network and write it as a RUN.

    Args:
        root: The RUN, which must not be there yet.
        kind: The format.
        path: Where the network is.
        vocabularies: As of `read_marian`, for that format.

    Returns:
        What was written.

    Raises:
        UserError: RUN is there, or the network is damaged or none that we have.
    """
    refuse_filled(root)
    if vocabularies is not None and kind != "marian":
        raise UserError(
            f"{kind} has its vocabularies beside the model",
            where="--vocabs",
            remedy="leave it out",
        )
    match kind:
        case "huggingface":
            imported = read_huggingface(path)
        case "marian":
            imported = read_marian(path, vocabularies)
        case unknown:
            raise AssertionError(unknown)
    write_run(root, imported)
    return imported
