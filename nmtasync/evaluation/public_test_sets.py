"""The test sets that sacrebleu knows by name, and fetches where they are not on the disk."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Iterator
from pathlib import Path

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.evaluation.test_sets import TestSet, read_test_set


def read_public_test_set(name: str, language_pair: str) -> TestSet:
    """Read a test set of sacrebleu's, all its references included.

    Args:
        name: As sacrebleu has it, for example wmt16.
        language_pair: For example ro-en.

    Returns:
        The test set; its name is both joined by a full stop, as wmt16.ro-en.

    Raises:
        UserError: There is no such test set, or not in these languages.
        NmtasyncError: It is not on the disk and can't be fetched.
    """
    from sacrebleu import DATASETS
    from sacrebleu.utils import SACREBLEU_DIR

    where = f"--test-set {name}"
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(DATASETS)}"
        raise UserError("sacrebleu knows no such test set", where=where, remedy=hint)
    dataset = DATASETS[name]
    if language_pair not in dataset.langpairs:
        known = ", ".join(dataset.langpairs)
        raise UserError(
            f"is not there in {language_pair!r}", where=where, remedy=f"take of {known}"
        )
    try:
        with _silent():
            source: str = dataset.get_source_file(language_pair)  # type: ignore[no-untyped-call]
            references: list[str] = dataset.get_reference_files(  # type: ignore[no-untyped-call]
                language_pair
            )
    except (Exception, SystemExit) as error:  # of whatever kind sacrebleu's downloads raise
        raise NmtasyncError(
            f"is not in {SACREBLEU_DIR} and can't be fetched: {error}",
            where=where,
            remedy=f"fetch it where there is a network, with `sacrebleu -t {name} -l "
            f"{language_pair} --echo src`, and copy that directory; or give files by --test",
        ) from None
    return read_test_set(
        f"{name.replace('/', '-')}.{language_pair}", Path(source), *map(Path, references)
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let sacrebleu say nothing by itself: what is wrong is told in one line."""
    logger = logging.getLogger("sacrebleu")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
