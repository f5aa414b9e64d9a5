"""The vocabulary of another run in place of one of its own, as fine-tuning needs it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nmtasync.config.schema import DataConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory

_OF_LEARNING = (
    "vocab_size",
    "vocab_type",
    "joint_vocabulary",
    "byte_fallback",
    "character_coverage",
    "normalization",
)
"""The options that say how a vocabulary is learned."""


def borrow_vocabulary(config: DataConfig, root: str) -> tuple[VocabularyPair, DataConfig]:
    """Load the vocabulary of another run.

    Args:
        config: The options of this run.
        root: The directory of the other one.

    Returns:
        The vocabularies, and the config with the options that they were learned with.

    Raises:
        UserError: There is no such run, its vocabulary is not the one that it made, or an option
            asks for another vocabulary.
    """
    lender = RunDirectory(Path(root))
    where = f"data.vocab_from = {root}"
    if not lender.manifest.exists():
        raise UserError("is no preprocessed run", where=where, remedy="name the directory of one")
    manifest = lender.read_manifest()
    vocabularies = VocabularyPair.load(lender.vocab)
    if vocabularies.digest() != manifest["vocabulary"]["digest"]:
        raise UserError("has been changed since it was preprocessed", where=lender.vocab)
    options, defaults = manifest["options"], DataConfig()
    learned: dict[str, Any] = {k: options.get(k, getattr(defaults, k)) for k in _OF_LEARNING}
    for key, there in learned.items():
        here = getattr(config, key)
        if here not in (there, getattr(defaults, key)):
            raise UserError(
                f"is {here!r}, but the vocabulary of {root} was learned with {there!r}",
                where=f"data.{key}",
                remedy="leave it out, or data.vocab_from",
            )
    return vocabularies, dataclasses.replace(config, **learned)
