"""The validations so far: which checkpoint is the best, and whether to go on.

The history is a file of its own, from which patience and the best are derived. A validation is
noted there last, so that one that was cut off is made up for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, explain_write_errors, write_json
from nmtasync.untrusted import Measured, parse_json, read_document, typed


@dataclass(frozen=True)
class Validation:
    """One validation.

    Attributes:
        updates: The checkpoint that was validated.
        time_seconds: When it was taken.
        cross_entropy: Per target word, in nats.
        bleu: From 0 to 100, of greedy translations; None where it is not measured.
    """

    updates: int
    time_seconds: float
    cross_entropy: Measured
    bleu: float | None

    def better_than(self, other: Validation, metric: str) -> bool:
        """Compare two validations by "bleu" or "cross_entropy".

        By the latter, too, where they have the same BLEU or one of them has none.
        """
        ours, theirs = self.bleu, other.bleu
        if metric == "bleu" and ours is not None and theirs is not None and ours != theirs:
            return ours > theirs
        return self.cross_entropy < other.cross_entropy


class ValidationHistory:
    """All validations of a run, kept in RUN/checkpoints/validations.json.

    Args:
        run: Where.
        metric: What decides, "bleu" or "cross_entropy".
        until: Ignore what comes after this update: it was measured on a future that training,
            resumed from an earlier checkpoint, has not.
    """

    def __init__(self, run: RunDirectory, metric: str, until: int = 0) -> None:
        self.run = run
        self.metric = metric
        self.validations = [v for v in _read(self._path) if v.updates <= until]

    @property
    def _path(self) -> Path:
        return self.run.checkpoints / "validations.json"

    def would_be_best(self, validation: Validation) -> bool:
        """Whether a validation is better than all that have been added."""
        return self.best is None or validation.better_than(self.best, self.metric)

    def add(self, validation: Validation) -> None:
        """Note a validation on disk."""
        self.validations.append(validation)
        with explain_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, [asdict(v) for v in self.validations])

    @property
    def best(self) -> Validation | None:
        """The best validation; the earlier one of equals."""
        best: Validation | None = None
        for validation in self.validations:
            if best is None or validation.better_than(best, self.metric):
                best = validation
        return best

    @property
    def num_since_best(self) -> int:
        """How many validations in a row were not better than the best."""
        best = self.best
        return 0 if best is None else len(self.validations) - 1 - self.validations.index(best)

    def includes(self, updates: int) -> bool:
        """Whether the checkpoint of this update has been validated."""
        return any(v.updates == updates for v in self.validations)


def _read(path: Path) -> list[Validation]:
    try:
        return typed(list[Validation], parse_json(read_document(path)))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"can't be read: {error}", where=path, remedy="delete it") from None
