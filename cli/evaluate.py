"""`nmtasync evaluate`: test sets to RUN/evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtasync.config.languages import warn_of_missing_spaces
from nmtasync.config.load import Settings
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.run_directory import RunDirectory, json_text

from .decoding import model_options, read_decoding
from .options import GroupedCommand, config_options, run_argument

if TYPE_CHECKING:
    from nmtasync.evaluation.test_sets import Evaluation, TestSet
    from nmtasync.evaluation.trained_model import TrainedModel


@click.command(cls=GroupedCommand)
@run_argument
@click.option(
    "--test",
    "tests",
    type=(str, click.Path(path_type=Path), click.Path(path_type=Path)),
    multiple=True,
    required=True,
    metavar="NAME SRC REF",
    help="A test set: its name, the source and the reference, plain text or gzip, line by line; "
    "may be repeated.",
)
@model_options
@config_options("evaluate", section="decoding")
@click.option("--json", "as_json", is_flag=True, help="Print the results as a JSON array.")
def evaluate(
    run: Path,
    tests: tuple[tuple[str, Path, Path], ...],
    checkpoint: str,
    average: int,
    device: str,
    settings: Settings,
    as_json: bool,
) -> None:
    """Translate test sets and measure BLEU, chrF and TER.

    Scores are sacrebleu's, cased and detokenised, with its signatures. For each test set,
    RUN/evaluation/NAME.hyp holds the translations and NAME.json the scores. A blank line is
    translated to a blank line. Search options come from RUN/config.toml, then --config, then
    --set, then flags; the last one wins.

    \b
    Example:
      nmtasync evaluate runs/de-en --test flickr16 test16.de test16.en \\
        --test flickr17 test17.de.gz test17.en.gz --beam-size 8
    """
    from nmtasync.evaluation.test_sets import describe, refuse_unwritable_results, write
    from nmtasync.evaluation.trained_model import load_trained

    directory = RunDirectory(run)
    directory.read_manifest()
    decoding = read_decoding(run, settings)
    test_sets = _read(tests)
    for test_set in test_sets:
        refuse_unwritable_results(directory, test_set.name)

    trained = load_trained(run, checkpoint, average, device, decoding)
    language = settings.get("data.target_language") or trained.config.data.target_language
    for test_set in test_sets:
        if warning := warn_of_missing_spaces(test_set.references, language):
            _warn(test_set.files["reference"]["path"], warning)
    descriptions = []
    failure: NmtasyncError | None = None
    for test_set in test_sets:
        evaluation = _evaluate(trained, test_set, language)
        description = describe(evaluation, trained, language)
        descriptions.append(description)
        try:
            write(directory, evaluation, description)
        except NmtasyncError as error:  # what has been measured is printed all the same
            failure = failure or error
    if as_json:
        click.echo(json_text(descriptions))
    else:
        _print(run, descriptions)
    if failure:
        raise failure


def _read(tests: tuple[tuple[str, Path, Path], ...]) -> list[TestSet]:
    """Read all test sets before anything else, so that a wrong path is reported at once."""
    from nmtasync.evaluation.test_sets import read_test_set

    names = [name for name, _, _ in tests]
    for name in names:
        if names.count(name) > 1:
            raise UserError("is the name of two test sets", where=f"--test {name}")
    return [read_test_set(*test) for test in tests]


def _evaluate(trained: TrainedModel, test_set: TestSet, language: str | None) -> Evaluation:
    from nmtasync.evaluation.test_sets import evaluate as evaluate_test_set

    from .progress import ProgressDisplay

    def warn(line: int, message: str) -> None:
        _warn(f"{test_set.files['source']['path']}:{line + 1}", message)

    def show(done: int, total: int) -> None:
        display(f"translating {test_set.name}", done, total)

    trained.translator.on_warning = warn
    with ProgressDisplay("sentences") as display:
        return evaluate_test_set(trained.translator, test_set, language, show)


def _warn(place: str, message: str) -> None:
    click.echo(f"nmtasync: warning: {place}: {message}", err=True)


def _print(run: Path, descriptions: list[dict[str, Any]]) -> None:
    width = max(len(description["name"]) for description in descriptions)
    for result in descriptions:
        scores = "  ".join(
            f"{label} {result[key]['score']:.2f}"
            for label, key in (("BLEU", "bleu"), ("chrF2", "chrf"), ("TER", "ter"))
        )
        click.echo(
            f"{result['name']:{width}}  {scores}  "
            f"({result['sentences']:,} sentences in {result['seconds']:.1f} s)"
        )
    first = descriptions[0]
    beam = first["decoding"]["beam_size"]
    click.echo(f"\nBLEU       {first['bleu']['signature']}")
    averaged = len(first["averaged_checkpoints"])
    mean = f", the mean of {averaged} checkpoints" if averaged > 1 else ""
    click.echo(f"model      update {first['checkpoint']:,}{mean}, beam {beam}")
    click.echo(f"results    {click.format_filename(RunDirectory(run).evaluation)}")
