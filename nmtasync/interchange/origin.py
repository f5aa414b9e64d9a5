"""Where an exported network comes from, which is told beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nmtasync
from nmtasync.checkpoints.load import load_model
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.interchange.network import Network
from nmtasync.report.test_results import TestResult, read_results
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import typed


@dataclass(frozen=True)
class Corpus:
    """A file of parallel text that a network was trained on.

    Attributes:
        name: Of the corpus.
        side: "source", "target" or another.
        file: The name of the file.
        lines: How many it has.
        sha256: Of its content.
    """

    name: str
    side: str
    file: str
    lines: int
    sha256: str


@dataclass(frozen=True)
class Origin:
    """Where a network comes from.

    Attributes:
        name: Of the run's directory.
        checkpoints: The updates of the checkpoints that it is the mean of.
        source_language: Its code, if it is known.
        target_language: Likewise.
        corpora: What it was trained on, as far as it is known.
        results: The scores of just these checkpoints on test sets.
    """

    name: str
    checkpoints: tuple[int, ...]
    source_language: str | None
    target_language: str | None
    corpora: tuple[Corpus, ...]
    results: tuple[TestResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {
            "nmtasync": nmtasync.__version__,
            "run": self.name,
            "checkpoints": list(self.checkpoints),
            "source_language": self.source_language,
            "target_language": self.target_language,
            "scores": {
                result.name: {
                    name: {"score": metric.score, "signature": metric.signature}
                    for name, metric in result.metrics.items()
                }
                for result in self.results
            },
        }


def load_network(run: RunDirectory, which: str, average: int) -> tuple[Network, Origin]:
    """Load a trained network, and what is known of where it comes from.

    Args:
        run: Where it was trained.
        which: "best", "latest", the updates of a checkpoint, or the name of an average.
        average: How many checkpoints to average: that one and the newest before it.

    Raises:
        UserError: There are no such checkpoints, or something is damaged.
    """
    manifest = run.read_manifest()
    model, config, checkpoints = load_model(run, which, "cpu", average)
    results, _ = read_results(run)
    about = checkpoints[-1], len(checkpoints)
    origin = Origin(
        name=run.root.resolve().name,
        checkpoints=tuple(checkpoints),
        source_language=config.data.source_language,
        target_language=config.data.target_language,
        corpora=_corpora(manifest),
        results=tuple(r for r in results if (r.checkpoint, r.num_averaged) == about),
    )
    return Network(config.model, model, VocabularyPair.load(run.vocab)), origin


def _corpora(manifest: Mapping[str, Any]) -> tuple[Corpus, ...]:
    """Read which files were trained on; none where that can't be read, as it is only told."""
    found = []
    try:
        for entry in typed(list[dict[str, Any]], manifest.get("inputs", []), "inputs"):
            if entry.get("corpus") == "train":
                name = typed(str | None, entry.get("name"), "name")  # type: ignore[arg-type]
                side = typed(str, entry["side"], "side")
                file = Path(typed(str, entry["path"], "path")).name
                lines, digest = typed(int, entry["lines"], "lines"), typed(str, entry["sha256"])
                found.append(Corpus(name or "train", side, file, lines, digest))
    except (KeyError, ValueError):
        return ()
    return tuple(found)
