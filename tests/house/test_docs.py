"""The documentation is true: links lead somewhere, commands parse, and the tutorial works.

Blocks marked `sh` are commands; all others are output, excerpts or formulas.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import sacrebleu

from cli.main import COMMANDS, cli
from cli.options import read_settings
from nmtasync.config.load import resolve
from nmtasync.config.schema import OPTIONS, SECTIONS
from nmtasync.data.vocabulary import Vocabulary
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory
from tests.support.repository import REPOSITORY

PATTERNS = ("*.md", "docs/*.md", "benchmarks/*.md", "recipes/**/*.md")
DOCUMENTS = sorted(
    str(path.relative_to(REPOSITORY)) for glob in PATTERNS for path in REPOSITORY.glob(glob)
)
PRESENT = [name for name in DOCUMENTS if name != "CHANGELOG.md"]  # which tells of the past, too

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    return (REPOSITORY / name).read_text("utf-8")


def shell_blocks(name: str) -> list[str]:
    return [block for language, block in FENCE.findall(read(name)) if language == "sh"]


def inline_code(name: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", read(name)))]


def commands(name: str) -> Iterator[list[str]]:
    """The words of each command in `sh` blocks and of all inline code, up to a `<`, `>` or `|`."""
    lines = [
        line
        for block in shell_blocks(name)
        for line in block.replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]
    for text in [*lines, *inline_code(name)]:
        for part in re.split(r"[|;&]{1,2} | [<>] ", text):
            try:
                yield shlex.split(part, comments=True)
            except ValueError:  # no command: a lone quotation mark
                continue


def prose(name: str) -> str:
    return re.sub(r"`[^`]+`", "", FENCE.sub("", read(name)))


def anchors(name: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read(name)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(name: str, target: str) -> bool:
    """Whether a link of a document within the checkout misses its file or heading."""
    path, _, anchor = target.partition("#")
    found = (REPOSITORY / name).parent / path if path else REPOSITORY / name
    if not found.exists():
        return True
    return bool(anchor) and anchor not in anchors(str(found.resolve().relative_to(REPOSITORY)))


def test_links_lead_somewhere():
    offenders = []
    for name in DOCUMENTS:
        for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(name)):
            away = target.startswith(("http://", "https://"))
            if not away and leads_nowhere(name, target):
                offenders.append(f"{name}: [{text}]({target})")
    assert not offenders


def test_the_index_knows_every_page():
    index = read("docs/README.md")
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert not [page for page in sorted(pages) if f"({page})" not in index]


def test_commands_parse():
    offenders = []
    for name in PRESENT:
        for words in commands(name):
            if words[:1] == ["nmtasync"] and len(words) > 1:
                try:
                    parse(words[1:])
                except (click.ClickException, UserError) as error:
                    offenders.append(f"{name}: {shlex.join(words)}: {error}")
    assert not offenders


def parse(words: list[str]) -> None:
    """Parse a command line without running it; its options must have an effect together.

    Raises:
        click.ClickException: There is no such command or flag.
        UserError: An option is unknown, or has no effect beside the others.
    """
    name, *rest = words
    if name.startswith("-"):
        known = any(name in option.opts for option in parameters("--"))
        if not known and name not in ("-h", "--help"):  # which click adds only when it parses
            raise click.NoSuchOption(name)
        return
    if name not in COMMANDS:
        raise click.UsageError(f"no command {name!r}")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    try:
        context = command.make_context(name, rest)
    except click.MissingParameter:  # an excerpt of a command; what there is was parsed
        return
    options = {
        field.name: context.params[field.key]
        for field in OPTIONS.values()
        if name in field.about.stages and field.key in context.params
    }
    files = tuple(path for path in context.params.get("config_files", ()) if path.exists())
    resolve(read_settings(files, context.params.get("assignments", ()), options))


def parameters(prefix: str) -> Iterator[click.Parameter]:
    """All parameters of all commands, and of the group itself."""
    context = click.Context(cli)
    for command in (cli, *(cli.get_command(context, name) for name in COMMANDS)):
        assert command is not None
        yield from (p for p in command.get_params(context) if p.opts[0].startswith(prefix))


def test_flags_exist():
    known = {flag for p in parameters("--") for flag in (*p.opts, *p.secondary_opts)}
    pages = [name for name in PRESENT if name == "README.md" or name.startswith("docs/")]
    assert not [
        f"{name}: {words[0]}"
        for name in pages
        if name != "docs/recurrent.md"  # names Marian's flags, too
        for words in commands(name)
        if words and words[0].startswith("--") and words[0] not in known
    ]


def test_what_is_named_exists():
    sections = "|".join(SECTIONS)
    folders = "nmtasync|cli|docs|benchmarks|recipes|tests"
    offenders = []
    for name in PRESENT:
        for span in inline_code(name):
            if option := re.match(rf"((?:{sections})\.[a-z_0-9]+)( = .*)?$", span):
                missing = option[1] not in OPTIONS
            else:
                is_path = re.match(rf"(?:{folders})/[\w./-]+$", span)
                missing = bool(is_path) and not (REPOSITORY / span).exists()
            if missing:
                offenders.append(f"{name}: {span}")
    assert not offenders


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert not [
        f"{name}: {shlex.join(words)}"
        for name in PRESENT
        for words in commands(name)
        if words[:1] == ["make"]
        and not {word for word in words[1:] if re.fullmatch("[a-z-]+", word)} <= targets
    ]


def test_the_picture_shows_what_was_logged(tmp_path):
    spec = importlib.util.spec_from_file_location("draw", REPOSITORY / "docs/draw_display.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    clocks = {"batches": 8, "epoch": 1.5}
    figures = {"loss": 2.0, "learning_rate": 1e-3, "staleness_mean": 0.5, "staleness_max": 1}
    figures["noise_scale"] = 4321.0
    pace = {"source_words_per_second": 99, "target_words_per_second": 90}
    valid = {"cross_entropy": 1.25, "bleu": 17.5, "best": True}
    events = [
        {"event": "train", "time_seconds": 8.0, "updates": 4, **clocks, **figures, **pace},
        {"event": "valid", "time_seconds": 7.0, "updates": 4, **clocks, **valid},
        {"event": "train", "time_seconds": 9.0, "updates": 77777, **clocks, **figures, **pace},
    ]
    (tmp_path / "logs").mkdir()
    log = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "logs" / "metrics.jsonl").write_text(log, "utf-8")
    (tmp_path / "config.toml").write_text("[training]\nmax_epochs = 2\n", "utf-8")
    picture = script.draw(RunDirectory(tmp_path), 8.5)
    for shown in ("[0:08]", "17.50", "0.50", "75%", "4,321"):
        assert shown in picture
    assert "77,777" not in picture, "that was later"


def run_page(name: str, tmp_path: Path) -> None:
    """Run the commands of a page, those of this checkout, in a directory."""
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    commands_directory = tmp_path / "bin"
    commands_directory.mkdir()
    for program, arguments in (("python", ""), ("nmtasync", "-m cli")):  # those of this checkout
        command = commands_directory / program
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(commands_directory), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(REPOSITORY),
    }
    script = "".join(["set -eu\n", *shell_blocks(name)])
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, check=True)


def bleu(run: Path, test: str) -> float:
    result = (run / "evaluation" / f"{test}.json").read_text("utf-8")
    return float(json.loads(result)["bleu"]["score"])


@pytest.mark.system
def test_the_tutorial_leads_where_it_says(tmp_path: Path):
    run_page("docs/tutorial.md", tmp_path)
    runs = tmp_path / "runs"
    assert bleu(runs / "tutorial", "demo") > 75
    assert bleu(runs / "swiss", "swiss") > bleu(runs / "tutorial", "swiss") + 2, "tuning helps"
    log = (tmp_path / "runs" / "four" / "logs" / "metrics.jsonl").read_text("utf-8")
    events = [json.loads(line) for line in log.splitlines()]
    assert any(event["event"] == "worker" for event in events), "the simulated failure"


@pytest.mark.system
def test_the_way_from_marian_and_back_leads_where_it_says(tmp_path: Path):
    pytest.importorskip("pymarian")
    ctranslate2 = pytest.importorskip("ctranslate2")
    run_page("docs/marian.md", tmp_path)
    runs = tmp_path / "runs"
    reference = (runs / "text/test.de").read_text("utf-8").splitlines()

    def theirs(name: str) -> float:
        lines = (runs / name).read_text("utf-8").splitlines()
        return float(sacrebleu.corpus_bleu(lines, [reference]).score)

    assert bleu(runs / "imported", "demo") == pytest.approx(theirs("marian/test.de"), abs=0.1)
    assert bleu(runs / "tuned", "demo") == pytest.approx(theirs("tuned-marian/test.de"), abs=0.1)
    assert bleu(runs / "tuned", "demo") > bleu(runs / "imported", "demo")
    vocabulary = Vocabulary.load(runs / "tuned-ct2/source.spm")
    lines = (runs / "text/test.en").read_text("utf-8").splitlines()
    pieces = [vocabulary.spell(ids) for ids in vocabulary.encode(lines)]
    translator = ctranslate2.Translator(str(runs / "tuned-ct2"))
    found = translator.translate_batch(pieces, beam_size=1, disable_unk=True)
    control = {piece: i for i, piece in enumerate(vocabulary.pieces())}
    ids = [[control[piece] for piece in result.hypotheses[0]] for result in found]
    ours = (runs / "tuned/evaluation/demo.hyp").read_text("utf-8").splitlines()
    assert sum(a == b for a, b in zip(vocabulary.decode(ids), ours, strict=True)) > 0.98 * len(ours)
