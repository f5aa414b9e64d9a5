"""The results of `nmtasync evaluate` as tables, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

METRICS = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER", "comet": "COMET"}


@dataclass(frozen=True)
class Table:
    """Rows of cells under a heading.

    Attributes:
        title: What it shows.
        header: Names of the columns; all but the first are numbers if `numbers`.
        rows: The cells.
        numbers: Whether columns are aligned to the right.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True

    def to_text(self) -> str:
        """Lay the cells out in columns."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [f"{self.title}"]
        for line in lines:
            first, *rest = (
                cell.rjust(width) if self.numbers and i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            text.append("  ".join((first, *rest)).rstrip())
        return "\n".join(text)

    def to_markdown(self) -> str:
        """Write the table as Markdown has it."""
        rule = ["---", *(["---:"] if self.numbers else ["---"]) * (len(self.header) - 1)]
        lines = [[_escaped(cell) for cell in line] for line in (self.header, *self.rows)]
        rows = [f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:])]
        return "\n".join((f"### {_escaped(self.title)}", "", *rows))


def _escaped(cell: str) -> str:
    """Keep what a text has of Markdown and HTML from being one."""
    for sign in "\\`*_[]<>|#":
        cell = cell.replace(sign, f"\\{sign}")
    return cell


def scores_table(results: Sequence[dict[str, Any]]) -> Table:
    """The scores of all test sets, with the model that they are of below its name."""
    metrics = [name for name in METRICS if any(name in result for result in results)]
    header = ["test set", *(METRICS[name] for name in metrics), "sentences", "update", "beam"]
    rows = [
        [
            result["name"],
            *(_score(name, result.get(name)) for name in metrics),
            f"{result['sentences']:,}",
            f"{result['checkpoint']:,}",
            str(result["decoding"]["beam_size"]),
        ]
        for result in results
    ]
    return Table("Scores", header, rows)


def _score(metric: str, entry: dict[str, Any] | None) -> str:
    return "–" if entry is None else format(entry["score"], ".4f" if metric == "comet" else ".2f")


def detail_tables(result: dict[str, Any]) -> Iterator[Table]:
    """The tables of what was asked for beside the scores of a test set."""
    name = result["name"]
    if "significance" in result:
        yield _significance(name, result["significance"])
    if "by_length" in result:
        yield _by_length(name, result["by_length"])
    if "examples" in result:
        for kind in ("best", "worst"):
            yield _examples(f"{name}: {kind} sentences by {result['examples']['by']}", result, kind)


def _significance(name: str, comparison: dict[str, Any]) -> Table:
    metrics = list(comparison["signatures"])
    header = ["system", *(word for m in metrics for word in (METRICS[m], "± 95%", "p"))]
    rows = []
    for system in comparison["systems"]:
        cells = [system["name"]]
        for metric in metrics:
            entry = system[metric]
            p = "–" if entry["p_value"] is None else f"{entry['p_value']:.4f}"
            cells += [f"{entry['score']:.2f}", f"{entry['interval']:.2f}", p]
        rows.append(cells)
    test = {"bootstrap": "paired bootstrap", "randomization": "approximate randomization"}
    return Table(f"{name}: {test[comparison['test']]} against the first", header, rows)


def _by_length(name: str, buckets: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for bucket in buckets:
        longest = "more" if bucket["longest"] is None else str(bucket["longest"])
        scores = (f"{bucket[metric]:.2f}" for metric in ("bleu", "chrf", "ter"))
        rows.append([f"{bucket['shortest']} to {longest}", f"{bucket['sentences']:,}", *scores])
    header = ["length of the source", "sentences", "BLEU", "chrF2", "TER"]
    return Table(f"{name}: by length of the source", header, rows)


def _examples(title: str, result: dict[str, Any], kind: str) -> Table:
    rows = []
    for example in result["examples"][kind]:
        rows.append([str(example["line"]), f"{example['score']:.1f}", "source", example["source"]])
        for side in ("reference", "hypothesis"):
            rows.append(["", "", side, example[side]])
    return Table(title, ["line", "score", "", "text"], rows, numbers=False)
