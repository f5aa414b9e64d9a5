"""`nmtasync evaluate`: test sets to RUN/evaluation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtasync.config.languages import warn_of_missing_spaces
from nmtasync.config.load import Settings
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.run_directory import RunDirectory, json_text

from .decoding import ChosenModel, model_options, read_decoding, say_precision
from .evaluation_details import Details, read_test_sets
from .evaluation_tables import Table, detail_tables, scores_table
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
    metavar="NAME SRC REF",
    help="A test set: its name, the source and the reference, plain text or gzip, line by line; "
    "may be repeated.",
)
@click.option(
    "--reference",
    "references",
    type=(str, click.Path(path_type=Path)),
    multiple=True,
    metavar="NAME REF",
    help="Another reference of the test set NAME; may be repeated.",
)
@click.option(
    "--test-set",
    "public",
    multiple=True,
    metavar="NAME",
    help="A test set that sacrebleu knows, as wmt16, fetched if it is not on the disk; may be "
    "repeated. Needs --language-pair.",
)
@click.option(
    "--language-pair", metavar="SRC-TGT", help="The languages of --test-set, for example ro-en."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN|FILE",
    help="Test whether the scores differ significantly from those of another run, which was "
    "evaluated on the same test sets, or of a file of translations; may be repeated.",
)
@click.option(
    "--significance",
    type=click.Choice(["bootstrap", "randomization"]),
    help="How --against tests: paired bootstrap (the default), or approximate randomization.",
)
@click.option(
    "--by-length",
    metavar="N,N,...",
    help="Score sentences of different lengths apart, as 10,20,40: up to 10 words, 11 to 20, ...",
)
@click.option(
    "--examples",
    type=click.IntRange(min=1, max=1000),
    metavar="N",
    help="Show the N sentences that were translated best, and the N worst.",
)
@click.option(
    "--examples-by",
    type=click.Choice(["chrf", "bleu"]),
    help="What --examples are chosen by; the default is chrf.",
)
@click.option(
    "--metrics",
    type=click.Choice(["comet"]),
    help="Another metric beside BLEU, chrF and TER; its package must be installed.",
)
@click.option("--comet-model", metavar="NAME|FILE", help="The model of --metrics comet.")
@model_options
@config_options("evaluate", section="decoding")
@click.option("--json", "as_json", is_flag=True, help="Print the results as a JSON array.")
@click.option("--markdown", is_flag=True, help="Print the results as tables in Markdown.")
def evaluate(
    run: Path,
    tests: tuple[tuple[str, Path, Path], ...],
    references: tuple[tuple[str, Path], ...],
    public: tuple[str, ...],
    language_pair: str | None,
    model: ChosenModel,
    settings: Settings,
    as_json: bool,
    markdown: bool,
    **asked: Any,
) -> None:
    """Translate test sets and measure BLEU, chrF and TER.

    Scores are sacrebleu's, cased and detokenised, with its signatures. For each test set,
    RUN/evaluation/NAME.hyp holds the translations and NAME.json the scores. A blank line is
    translated to a blank line. Search options come from RUN/config.toml, then --config, then
    --set, then flags; the last one wins.

    \b
    Examples:
      nmtasync evaluate runs/de-en --test flickr16 test16.de test16.en \\
        --test flickr17 test17.de.gz test17.en.gz --beam-size 8
      nmtasync evaluate runs/ro-en --test-set wmt16 --language-pair ro-en --against runs/ro-en-sync
    """
    from nmtasync.evaluation.test_sets import describe, refuse_unwritable_results, write
    from nmtasync.evaluation.trained_model import load_trained

    if as_json and markdown:
        raise UserError("has no effect beside --json", where="--markdown", remedy="give one")
    directory = RunDirectory(run)
    directory.read_manifest()
    decoding = read_decoding(run, settings)
    test_sets = read_test_sets(tests, references, public, language_pair)
    details = Details.of(run, test_sets, **asked)
    for test_set in test_sets:
        refuse_unwritable_results(directory, test_set.name)

    named = model.checkpoint, model.average, model.device
    trained = load_trained(run, *named, decoding, others=model.others())
    say_precision(decoding, trained.precision)
    config = trained.config.data
    language = settings.get("data.target_language") or config.target_language
    _warn_of_missing_spaces(test_sets, language)
    descriptions, failure = [], None
    for test_set in test_sets:
        evaluation = _evaluate(trained, test_set, language)
        descriptions.append(description := describe(evaluation, trained, language))
        for finish in (
            partial(details.add, description, evaluation, config.source_language, language),
            partial(write, directory, evaluation, description),
        ):
            try:
                finish()
            except NmtasyncError as error:  # what has been measured is printed all the same
                failure = failure or error
    _show(run, descriptions, as_json=as_json, markdown=markdown)
    if failure:
        raise failure


def _show(run: Path, descriptions: list[dict[str, Any]], *, as_json: bool, markdown: bool) -> None:
    if as_json:
        click.echo(json_text(descriptions))
    else:
        (_print_markdown if markdown else _print)(run, descriptions)


def _evaluate(trained: TrainedModel, test_set: TestSet, language: str | None) -> Evaluation:
    from nmtasync.evaluation.test_sets import evaluate as evaluate_test_set
    from nmtasync.evaluation.translate import totals

    from .progress import ProgressDisplay

    def warn(line: int, message: str) -> None:
        _warn(f"{test_set.files['source']['path']}:{line + 1}", message)

    def show(done: int, total: int) -> None:
        display(f"translating {test_set.name}", done, total)

    trained.translator.on_warning = warn
    with ProgressDisplay("sentences") as display:
        evaluation = evaluate_test_set(trained.translator, test_set, language, show)
    for total in totals(evaluation.counts):
        _warn(test_set.files["source"]["path"], total)
    return evaluation


def _warn_of_missing_spaces(test_sets: list[TestSet], language: str | None) -> None:
    for test_set in test_sets:
        if warning := warn_of_missing_spaces(test_set.references, language):
            _warn(test_set.files["reference"]["path"], warning)


def _warn(place: str, message: str) -> None:
    click.echo(f"nmtasync: warning: {place}: {message}", err=True)


def _print(run: Path, descriptions: list[dict[str, Any]]) -> None:
    width = max(len(description["name"]) for description in descriptions)
    for result in descriptions:
        scores = "  ".join(
            f"{label} {result[key]['score']:.2f}"
            for label, key in (("BLEU", "bleu"), ("chrF2", "chrf"), ("TER", "ter"))
        )
        if "comet" in result:
            scores += f"  COMET {result['comet']['score']:.4f}"
        click.echo(
            f"{result['name']:{width}}  {scores}  "
            f"({result['sentences']:,} sentences in {result['seconds']:.1f} s)"
        )
    first = descriptions[0]
    how = first["decoding"]
    search = f"seed {how['seed']}" if how["sampling"] else f"beam {how['beam_size']}"
    click.echo(f"\nBLEU       {first['bleu']['signature']}")
    averaged = len(first["averaged_checkpoints"])
    mean = f", the mean of {averaged} checkpoints" if averaged > 1 else ""
    if first["ensemble"]:
        mean += f", in an ensemble of {len(first['ensemble'])}"
    click.echo(f"model      update {first['checkpoint']:,}{mean}, {search}")
    click.echo(f"results    {click.format_filename(RunDirectory(run).evaluation)}")
    for table in _details(descriptions):
        click.echo(f"\n{table.to_text()}")


def _print_markdown(run: Path, descriptions: list[dict[str, Any]]) -> None:
    tables = [scores_table(descriptions), *_details(descriptions)]
    click.echo("\n\n".join(table.to_markdown() for table in tables))


def _details(descriptions: list[dict[str, Any]]) -> list[Table]:
    return [table for description in descriptions for table in detail_tables(description)]
